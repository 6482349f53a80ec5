"""Another project's way from JPEG files to pairs of views, timed in an interpreter that imports
nothing of this project.

    .venv-peers/bin/python -P benchmarks/peer.py LIST "DALI geometry" 224

LIST names a file a line. Prints JSON: "cpu_ms", CPU milliseconds a pair of a second pass over the
files, and the "versions" of the packages.
"""

import importlib.metadata
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageFilter

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, 0..1
CROP = (0.2, 1.0)  # share of the image
BATCH = 10
PACKAGES = {
    "DALI": ("nvidia-dali-cuda120",),
    "lightly": ("lightly", "torchvision", "pillow"),
    "torchvision": ("torchvision", "pillow"),
}


def blur(picture: Image.Image) -> Image.Image:
    """MoCo v2's own blur: torchvision's goes through a tensor and would double the whole time."""
    return picture.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def moco_v2_transform(size: int) -> Callable:
    """One view by torchvision's transforms on Pillow images, MoCo v2's settings (Chen et al.
    2020)."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, CROP),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([blur], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def torchvision(kind: str, size: int) -> Callable:
    """A view by torchvision."""
    from torchvision import transforms

    if kind == "colours":
        return moco_v2_transform(size)
    crop, flip = transforms.RandomResizedCrop(size, CROP), transforms.RandomHorizontalFlip()
    return transforms.Compose([crop, flip, transforms.PILToTensor()])


def lightly(kind: str, size: int) -> Callable:
    """Both views by lightly."""
    from lightly.transforms import MoCoV2Transform

    off = {"cj_prob": 0.0, "random_gray_scale": 0.0, "gaussian_blur": 0.0, "normalize": None}
    return MoCoV2Transform(size, **({} if kind == "colours" else off))


def pillow_pass(package: str, kind: str, size: int, files: list[str]) -> Callable[[], None]:
    """Every file decoded by Pillow, and its two views."""
    view = {"torchvision": torchvision, "lightly": lightly}[package](kind, size)
    calls = 1 if package == "lightly" else 2

    def run() -> None:
        for file in files:
            picture = Image.open(file).convert("RGB")
            for _ in range(calls):
                view(picture)

    return run


def dali_pass(kind: str, size: int, files: list[str]) -> Callable[[], None]:
    """A CPU pipeline without threads beside it.

    Args:
        kind: geometry, one decode and two random crops of it; regions, two decodes of a random
            region each; colours, geometry with colours and normalisation.
    """
    from nvidia.dali import fn, pipeline_def, types

    def coin(probability: float = 0.5) -> object:
        return fn.random.coin_flip(probability=probability)

    def colours(view: object) -> object:
        jitter = coin(0.8)
        factors = [1 + jitter * fn.random.uniform(range=(-0.4, 0.4)) for _ in range(3)]
        view = fn.color_twist(
            view,
            brightness=factors[0],
            contrast=factors[1],
            saturation=factors[2] * (1 - coin(0.2)),  # none is grey
            hue=jitter * fn.random.uniform(range=(-36.0, 36.0)),
        )
        if fn.random.coin_flip(dtype=types.BOOL):
            view = fn.gaussian_blur(view, sigma=fn.random.uniform(range=(0.1, 2.0)))
        mean, std = [255 * m for m in MEAN], [255 * s for s in STD]
        return fn.crop_mirror_normalize(view, mirror=coin(), mean=mean, std=std)

    def view(content: object, image: object) -> object:
        if kind == "regions":
            region = fn.decoders.image_random_crop(content, random_area=CROP)
            return fn.flip(fn.resize(region, size=(size, size)), horizontal=coin())
        crop = fn.random_resized_crop(image, size=(size, size), random_area=CROP)
        return colours(crop) if kind == "colours" else fn.flip(crop, horizontal=coin())

    @pipeline_def(
        batch_size=BATCH,
        num_threads=1,
        device_id=None,
        prefetch_queue_depth=1,
        exec_async=False,
        exec_pipelined=False,
        enable_conditionals=True,
    )
    def pipeline() -> object:
        content, _ = fn.readers.file(files=files)
        image = None if kind == "regions" else fn.decoders.image(content)
        return view(content, image), view(content, image)

    built = pipeline()
    built.build()

    def run() -> None:
        for _ in range(len(files) // BATCH):
            built.run()

    return run


def main() -> None:
    names, peer, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    files = names.read_bytes().decode(errors="surrogateescape").splitlines()
    package, kind = peer.split()
    if package == "DALI":
        run = dali_pass(kind, size, files)
    else:
        run = pillow_pass(package, kind, size, files)
    run()
    start = time.process_time()
    run()
    seconds = time.process_time() - start
    versions = {name: importlib.metadata.version(name) for name in PACKAGES[package]}
    print(json.dumps({"cpu_ms": 1e3 * seconds / len(files), "versions": versions}))


if __name__ == "__main__":
    main()
