"""Small data sets in official layouts, command lines, and a signal in the middle of a training."""

import json
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from evaluate.__main__ import main
from tests.conftest import call

# a detector's training and test in seconds
TINY = "--batch 2 --scales 48 64 --test-scale 64 --regions 16 --precise-bn 2 --lr 0.002"
TINY += " --device cpu --workers 0 --save-every 5"
OBJECT = """<object><name>{name}</name>{difficult}
<bndbox><xmin>{x}</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin></bndbox></part></object>"""
XML = "<annotation><size><width>{width}</width><height>40</height></size>{objects}</annotation>"


def evaluate(line: str) -> dict:
    """What `python -m evaluate LINE`, in this process, writes to its --json."""
    words = line.split()
    call(main, *words)
    file = dict(pairwise(words)).get("--json")
    return json.loads(Path(file).read_text()) if file else {}


def command_line(name: str, *options: object, processes: int = 1) -> list[str]:
    launch = ["-m", "train.launch", "--standalone", "--nproc-per-node", str(processes)]
    launch *= processes > 1
    return [sys.executable, *launch, "-m", "evaluate", name, *map(str, options)]


def pictures(root: Path, colours: dict, counts: tuple, spread: float, noise: float) -> str:
    """ROOT/{train,val}/CLASS: so many pictures a class, each of a noisy colour near its class's."""
    rng = np.random.default_rng(0)
    for folder, count in zip(("train", "val"), counts, strict=True):
        for name, centre in colours.items():
            (root / folder / name).mkdir(parents=True)
            for i in range(count):
                image = rng.normal(rng.normal(centre, spread), noise, (20, 24, 3))
                image = np.clip(image, 0, 255).astype(np.uint8)
                cv2.imwrite(str(root / folder / name / f"{name}_{i:02d}.png"), image)
    return str(root)


def xml(*objects: dict, width: object = 50) -> str:
    """VOC's annotation of objects named cup; by default one, whose box begins at x = 1."""
    common = {"name": "cup", "difficult": "<difficult>0</difficult>", "x": 1}
    texts = [OBJECT.format(**common | changes) for changes in objects or ({},)]
    return XML.format(objects="".join(texts), width=width)


def own_voc(root: Path, text: str | bytes = "", line: bytes = b"img 0\n") -> Path:
    """A set of one's own in VOC's layout: one image, 50x40, named "img 0", in both lists."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    for split in ("trainval", "test"):
        (root / "ImageSets/Main" / f"{split}.txt").write_bytes(line)
    cv2.imwrite(str(root / "JPEGImages/img 0.jpg"), np.zeros((40, 50, 3), np.uint8))
    content = text if isinstance(text, bytes) else (text or xml()).encode()
    (root / "Annotations/img 0.xml").write_bytes(content)
    return root


def squares(root: Path) -> Path:
    """ROOT in COCO's layout: 11 black images with two bright rectangles, one as run lengths."""
    images, objects, rng = [], [], np.random.default_rng(0)
    (root / "train2017").mkdir(parents=True)
    (root / "val2017").symlink_to(root / "train2017")
    (root / "annotations").mkdir()
    for i in range(11):
        height, width = (60, 90) if i % 3 else (90, 60)
        image = np.zeros((height, width, 3), np.uint8)
        for j in range(2):
            x, y = 30 * j + int(rng.integers(0, 5)), int(rng.integers(0, 20))
            w, h = 20, int(rng.integers(15, 40))
            image[y : y + h, x : x + w, j] = 255
            outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            if j:
                outline = {"size": [height, width], "counts": run_lengths(image[..., j] // 255)}
            a = {"id": len(objects) + 1, "image_id": i + 5, "category_id": 3 + j, "area": w * h}
            objects.append(a | {"iscrowd": 0, "bbox": [x, y, w, h], "segmentation": outline})
        cv2.imwrite(str(root / "train2017" / f"{i}.png"), image[..., ::-1])
        images.append({"id": i + 5, "width": width, "height": height, "file_name": f"{i}.png"})
    categories = [{"id": 3, "name": "a"}, {"id": 4, "name": "b"}]
    content = {"images": images, "annotations": objects, "categories": categories}
    for split in ("train2017", "val2017"):
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def run_lengths(pixels: np.ndarray) -> list[int]:
    """COCO's plain counts of an (H, W) mask of 0 and 1."""
    flat = np.concatenate([[0], pixels.T.ravel(), [2]])
    return np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()


def signal_when(patch: object, owner: type, name: str, number: int, when: Callable) -> None:
    """Signal this process at the first call of a method whose arguments `when` is true of."""
    original, sent = getattr(owner, name), []

    def method(*arguments: object) -> object:
        if not sent and when(*arguments):
            sent.append(number)
            os.kill(os.getpid(), number)
        return original(*arguments)

    patch.setattr(owner, name, method)
