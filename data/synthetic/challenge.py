"""A set like the Backgrounds Challenge's, from any labelled images and their mask cache (`python -m
data challenge`).

    from data.synthetic.challenge import Options, make
    make("imagenette/val", "caches/imagenette-val", "runs/challenge", Options(limit=50))
    # then: python -m evaluate in9 --run RUN --data runs/challenge --train imagenette/train

The official layout, VARIANT/val/CLASS/NAME, with the images' own classes: `evaluate in9` reads it
with a probe on training images of the same classes. Its numbers compare with each other, never with
ImageNet-9's. Of training images, the variants that ImageNet-9 has for training. list.tsv names
every picture's source and donor.
"""

import csv
import hashlib
import io
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import numpy as np

from data.cache.reader import Cache
from data.cli import UsageError, require
from data.sources.images import ImageError, Images, class_names, decode, open_images
from data.synthetic.output import Output, write_file, write_jpeg
from data.synthetic.variants import BIASED, MIXED, VARIANTS, binary, box, compose, tiled

NAME, VERSION = "dilo-challenge", 1  # raise the version whenever a picture changes
SMALLEST, WIDEST = 0.02, 0.8  # of the image: least foreground, largest box around it
VARIANTS_OF = {"val": VARIANTS, "train": ("original", "mixed_same", "mixed_rand", "only_fg")}
HEADER = ("file", "source", "donor", "donor_class", "coverage")

# a row, and {variant with another background: row of the image that gives it}
Job = tuple[int, dict[str, int]]


@dataclass(frozen=True)
class Options:
    """What a set holds."""

    limit: int | None = None
    """Images a class at most, evenly spaced (default: all)."""
    seed: int = 0
    """Seed of the draws of backgrounds; they depend on nothing else than it, the image's path and
    the images used."""
    split: Literal["val", "train"] = "val"
    """val: every variant, for testing; train: original, mixed_same, mixed_rand and only_fg, for
    pretraining or probes."""
    bias: float | None = None
    """Also the variant `biased`: the background is of the image's own class with this probability,
    0..1, else of another class (Waterbirds' construction, Sagawa et al., ICLR 2020): 0.95 to train
    on, 0.5 to test on."""

    def check(self) -> None:
        """UsageError where a number is out of its range."""
        require(self, limit=1)
        if self.bias is not None and not 0 <= self.bias <= 1:
            raise UsageError(f"--bias {self.bias}: must be in 0..1")

    @property
    def variants(self) -> list[str]:
        """Names of the folders."""
        return [*VARIANTS_OF[self.split], *([] if self.bias is None else [BIASED])]


class Record(TypedDict):
    """What challenge.json holds: `counts` by class, `masks` the cache's identity, `contents` see
    Source.contents, `backgrounds` {path: {variant: path of the image whose background it is}};
    `split` and `bias` where they are not the default."""

    name: str
    version: int
    classes: list[str]
    left_out: int
    seed: int
    limit: int | None
    counts: dict[str, int]
    masks: str
    contents: str
    variants: list[str]
    backgrounds: dict[str, dict[str, str]]
    split: NotRequired[str]
    bias: NotRequired[float]


def make(
    images: str | os.PathLike,
    cache: str | os.PathLike,
    out: str | os.PathLike,
    options: Options = Options(),
    workers: int = 1,
) -> Record:
    """Write the set under `out`; what is there of it already is kept, so the same call continues.

    Args:
        images: CLASS/image, a folder or tar.
        cache: masks of these images.
        workers: processes; the files do not depend on them.

    An image is used where its mask is usable, covers at least SMALLEST of it, and lies in a box of
    at most WIDEST of it, so that there is a foreground to cut out and a background to tile.

    Raises:
        UsageError: a number out of its range, an image without a mask in the cache, or changed
            since it was made, a class without a usable image, fewer than two classes, an image that
            cannot be decoded, `out` holds something else, or another process writes it.
    """
    options.check()
    source = Source(open_images(images), Cache(cache))
    coverage = source.coverage()
    groups = _groups(source.images, np.array(list(coverage), int), options.limit)
    jobs = _draw(source.images.paths, groups, options)
    record = _record(source, groups, jobs, options, len(source.images) - len(coverage))
    output = Output(out, "challenge.json", record)
    # a set of an earlier version does not say what its images were
    before = output.before and {"contents": record["contents"], **output.before}
    if before not in (None, record):
        raise UsageError(
            f"{out}: holds a challenge set of other images, masks or options; give a new folder"
        )
    files = partial(_files, output.folder, options)
    missing = [
        job
        for job in jobs
        if not all(map(os.path.exists, files(source.images.name(job[0])).values()))
    ]
    if missing or not output.finished:
        output.write(partial(_write_block, source, files), missing, workers, ["*/*/**/*.tmp"])
    listing = output.folder / "list.tsv"
    if not listing.exists():
        write_file(listing, _listing(source.images, jobs, options, coverage))
    return record


@dataclass(frozen=True)
class Source:
    """Images and the cache of their masks."""

    images: Images
    masks: Cache

    def coverage(self) -> dict[int, float]:
        """Row of each image that can be used -> share of it that its foreground covers, 0..1."""
        masks, rows, usable = self.masks, self.masks.require(self.images.paths), {}
        for i, row in enumerate(rows.tolist()):
            foreground = binary(masks.mask(row), masks.side, masks.side)
            if masks.status[row] == 0 and foreground.mean() >= SMALLEST:
                top, left, bottom, right = box(foreground)
                if (bottom - top) * (right - left) <= WIDEST * masks.side**2:
                    usable[i] = float(foreground.mean())
        return usable

    def contents(self, used: np.ndarray) -> str:
        """Digest of what the masks of some rows of the images were made of, 32 hex digits.

        Raises:
            UsageError: the cache's images of these names were others.
        """
        images = self.images.take(used)
        rows = self.masks.require(images.paths)
        digests = self.masks.column("digest")[rows]
        differs = self.masks.changed(rows, images)
        other = differs[:, 0]
        if self.masks.identity["estimator"] != "files":  # whose digests are of the maps too
            for i in np.flatnonzero(differs[:, 1] & ~other).tolist():  # a copy, or a tar
                other[i] = _digest(images, i) != digests[i].tobytes()
        if other.any():
            raise UsageError(
                f"{self.masks.folder}: made of other images than {images.root} has: {other.sum()} "
                f"of {len(other)} differ (first: {images.name(int(other.argmax()))}); run `python "
                "-m preprocess` on this image folder"
            )
        return hashlib.blake2b(digests.tobytes(), digest_size=16).hexdigest()

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An image, its foreground, and its background with the foreground's box tiled: (H, W, 3)
        uint8, (H, W) bool, (H, W, 3) uint8."""
        mask = self.masks.mask(self.masks.require(self.images.paths[row : row + 1])[0])
        try:
            image = decode(self.images.read(row))
            foreground = binary(mask, *image.shape[:2])
            return image, foreground, tiled(image, box(foreground))
        except (ImageError, ValueError) as error:
            name = f"{self.images.root}/{self.images.name(row)}"
            raise UsageError(f"{name}: {error}; leave it out") from None


def _digest(images: Images, row: int) -> bytes:
    """As the cache's column `digest`; empty where the image cannot be read."""
    try:
        return hashlib.blake2b(images.read(row), digest_size=16).digest()
    except ImageError:
        return b""


def _groups(images: Images, usable: np.ndarray, limit: int | None) -> dict[str, np.ndarray]:
    """{class: rows of its images that are used}."""
    stems = {os.path.splitext(path)[0] for path in images.paths.tolist()}
    if len(stems) < len(images):
        raise UsageError(
            f"{images.root}: two images differ in nothing but their ending, and would become one "
            "file"
        )
    groups = {}
    for name in class_names(images.paths):
        rows = usable[np.char.startswith(images.paths[usable], os.fsencode(name) + b"/")]
        count = min(limit or len(rows), len(rows))
        groups[name] = rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
    empty = [name for name, rows in groups.items() if not len(rows)]
    if len(groups) < 2 or empty:
        reason = f"class {empty[0]} has none" if empty else f"it has {len(groups)}"
        raise UsageError(
            f"{images.root}: needs two classes or more (CLASS/image), each with an image whose "
            f"mask can be used; {reason}"
        )
    return groups


def _draw(paths: np.ndarray, groups: dict[str, np.ndarray], options: Options) -> list[Job]:
    """Every image's job: backgrounds of its own class, of any class, of the next, and biased."""
    classes = list(groups.values())
    everything = np.concatenate(classes)
    jobs = []
    for own, following in zip(classes, [*classes[1:], classes[0]], strict=True):
        foreign = own if options.bias is None else np.setdiff1d(everything, own)
        for row in own.tolist():
            rng = np.random.default_rng([options.seed, zlib.crc32(paths[row])])
            same = own[own != row] if len(own) > 1 else own
            pools = dict(zip(MIXED, (same, everything[everything != row], following), strict=True))
            if options.bias is not None:  # the last to draw, so that the others' draws stay
                pools[BIASED] = same
            others = {}
            for kind, pool in pools.items():
                if kind == BIASED and rng.random() >= options.bias:
                    pool = foreign
                others[kind] = int(rng.choice(pool))
            jobs.append((row, {k: v for k, v in others.items() if k in options.variants}))
    return jobs


def _record(
    source: Source, groups: dict[str, np.ndarray], jobs: list[Job], options: Options, left_out: int
) -> Record:
    name = source.images.name
    record: Record = {
        "name": NAME,
        "version": VERSION,
        "classes": list(groups),
        "left_out": left_out,
        "seed": options.seed,
        "limit": options.limit,
        "counts": {label: len(rows) for label, rows in groups.items()},
        "masks": source.masks.description["identity_hash"],
        "contents": source.contents(np.concatenate(list(groups.values()))),
        "variants": options.variants,
        "backgrounds": {
            name(row): {variant: name(other) for variant, other in others.items()}
            for row, others in jobs
        },
    }
    if options.split != "val":
        record["split"] = options.split
    if options.bias is not None:
        record["bias"] = options.bias
    return record


def _listing(
    images: Images, jobs: list[Job], options: Options, coverage: dict[int, float]
) -> bytes:
    """list.tsv: for every picture its file, source, donor of the background ("" for none), the
    donor's class, and the share of the source that its foreground covers."""
    text = io.StringIO()
    writer = csv.writer(text, "excel-tab", lineterminator="\n")
    writer.writerow(HEADER)
    for row, others in jobs:
        source = images.name(row)
        for variant in options.variants:
            donor = images.name(others[variant]) if variant in others else ""
            file = f"{variant}/{options.split}/{Path(source).with_suffix('.JPEG')}"
            writer.writerow((file, source, donor, donor.split("/")[0], f"{coverage[row]:.4f}"))
    return os.fsencode(text.getvalue())


def _files(out: Path, options: Options, name: str) -> dict[str, Path]:
    """{variant or "fg_mask": file} of the image of that name."""
    files = {v: (out / v / options.split / name).with_suffix(".JPEG") for v in options.variants}
    return files | {"fg_mask": (out / "fg_mask" / options.split / name).with_suffix(".npy")}


def _write_block(
    source: Source, files_of: Callable[[str], dict[str, Path]], jobs: list[Job]
) -> int:
    for row, others in jobs:
        files = files_of(source.images.name(row))
        last = files.pop("fg_mask")
        image, foreground, background = source.read(row)
        backgrounds = {name: source.read(other)[2] for name, other in others.items()}
        pictures = compose(image, foreground, backgrounds | {"only_bg_t": background})
        for variant, file in files.items():
            write_jpeg(file, pictures[variant])
        content = io.BytesIO()
        np.save(content, foreground)
        write_file(last, content.getvalue())
    return len(jobs)
