"""Score saliency estimators, or maps on disk, against true masks.

    python -m evaluate saliency --images ecssd/images --truth ecssd/masks --estimator rbd,mr
    python -m evaluate saliency --images ecssd/images --truth ecssd/masks --maps my_maps

Maximum F in both of the field's conventions: maxF(a) is the maximum of the mean per-image F,
maxF(b) is F of the mean precision and recall; on the same maps (b) is .03 to .07 higher. β² = 0.3;
weighted F has β = 1. IoU is that of the mask above half of the map's range, adaptive IoU that above
twice its mean. The JSON holds the curves too; on all of ECSSD the scores that others published
stand beside ours.
"""

import os
import re
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from tqdm import tqdm

from data.cli import UsageError, require
from data.parallel import bounded_map
from data.resize import resize
from data.sources.images import ImageError, decode, list_images, read_bytes
from evaluate.common import beside, refuse_unused
from evaluate.masks import figure
from evaluate.masks.metrics import TITLES, Scores, curves, nearest_foreground, score, summarise
from evaluate.published import saliency_check
from preprocess import estimators
from preprocess.estimators.files import map_file, read_map

FOREGROUND = 128  # of a true mask's grey levels: this and above is foreground
DIGITS = {"ms": 1, "mae": 4}  # 3 else
UNPRINTED = {"max_e", "adaptive_e", "max_iou"}  # in the JSON alone


@dataclass(frozen=True)
class Arguments:
    """Score saliency estimators, or maps on disk, against true masks."""

    images: str
    """Folder of images."""
    truth: str
    """Folder of true masks: grey PNG at each image's relative path, foreground >= 128."""
    json_file: Annotated[str, tyro.conf.arg(name="json")] = "runs/saliency.json"
    """File for the numbers; the figures lie beside it: examples as .png, curves as -curves.png."""
    estimator: str = ""
    """Estimators to score, separated by commas."""
    maps: str | None = None
    """Score the grey PNG maps of this folder instead (at each image's relative path)."""
    refine: str = "none"
    """Refinement after every estimator: none, guided or grabcut."""
    half: Literal["all", "even", "odd"] = "all"
    """all, or the images whose number is even or odd (ECSSD: even ones choose, odd ones report)."""
    limit: int | None = None
    """Score at most this many images, spread evenly over the folder."""
    workers: int = 1
    """Processes of one thread each; more than one blurs the milliseconds, and so does 0, which
    computes in this process with whatever threads it has."""
    examples: int = 6
    """Rows of the figure of examples; 0 draws no figure."""

    @property
    def names(self) -> list[str]:
        """The estimators' names."""
        return [name for name in self.estimator.split(",") if name]

    def check(self) -> None:
        """UsageError where options do not fit together."""
        if bool(self.names) == bool(self.maps):
            raise UsageError("give either --estimator NAME[,NAME...] or --maps FOLDER")
        if self.maps:
            refuse_unused(self, "refine", "with --maps")
        require(self, limit=1, workers=0, examples=0)
        if not os.path.isdir(self.truth):
            raise UsageError(f"{self.truth}: no such folder of true masks")

    def result_file(self) -> Path:
        """Where the result is written."""
        return Path(self.json_file)


def evaluate(arguments: Arguments) -> dict:
    """Score the estimators, or the maps, on every image that has a true mask.

    Returns:
        {"images", "truth", "maps", "refine", "half", "count", "paths", "left_out": {reason: paths
        that it kept from being scored}, "estimators": {name: {metrics, "curves", "ms", "version",
        "parameters"}}, "published", "pictures"}; metrics as evaluate.masks.metrics.summarise,
        curves as evaluate.masks.metrics.curves, "ms" the median CPU milliseconds from decoded RGB
        to the map at its working size (absent for maps on disk), "published" as
        evaluate.published.saliency_check, "pictures" what the figure of examples shows (absent
        where none is drawn).

    Raises:
        UsageError: a folder or estimator that does not fit, or most images cannot be scored.
    """
    arguments.check()
    paths, without = _paths(arguments)
    entries = {name: _description(name, arguments.refine) for name in arguments.names}
    entries = entries or {arguments.maps: {}}
    rows, left_out = _score_all(arguments, paths)
    left_out |= without
    for i, entry in enumerate(entries.values()):
        scores = [row[i][0] for row in rows.values()]
        entry.update(summarise(scores), curves=curves(scores))
        if not arguments.maps:
            entry["ms"] = float(np.median([row[i][1] for row in rows.values()]))
    result = {
        "images": arguments.images,
        "truth": arguments.truth,
        "maps": arguments.maps,
        "refine": arguments.refine,
        "half": arguments.half,
        "count": len(rows),
        "paths": [os.fsdecode(path) for path in rows],
        "left_out": left_out,
        "estimators": entries,
    }
    result["published"] = saliency_check(result)
    if arguments.examples:
        count = min(arguments.examples, len(rows))
        chosen = [list(rows)[(2 * i + 1) * len(rows) // (2 * count)] for i in range(count)]
        result["pictures"] = [_pictures(arguments, path) for path in chosen]
    return result


def lines(result: dict) -> list[str]:
    """The scores as a Markdown table, one estimator a row, and what others published."""
    entries = result["estimators"]
    columns = [c for c in TITLES if c not in UNPRINTED and all(c in e for e in entries.values())]
    rows = [["estimator", *(TITLES[c] for c in columns)], ["---"] * (len(columns) + 1)]
    for name, entry in entries.items():
        rows.append([name, *(cell(entry[column], column) for column in columns)])
    text = [f"| {' | '.join(row)} |" for row in rows]
    for row in result["published"]:
        title, agrees = TITLES[row["metric"]], "" if row["agrees"] else ", which does not agree"
        numbers = f"{row['ours']:.3f}, published {row['published']:.3f} ({row['source']})"
        text.append(f"{row['estimator']}: {title} {numbers}{agrees}")
    return text + _reasons(result["left_out"])


def cell(score: float, metric: str) -> str:
    """A score as tables show it: .711, or .1709 of an error."""
    return f"{score:.{DIGITS.get(metric, 3)}f}".removeprefix("0")


def _reasons(left_out: dict[str, list[str]]) -> list[str]:
    return [f"left out {len(p)}: {reason} ({p[0]} ...)" for reason, p in left_out.items()]


def draw(arguments: Arguments, result: dict, pictures: list[dict] | None) -> list[Path]:
    """Write the figures beside the JSON; their files."""
    if not pictures:
        return []
    file = arguments.result_file()
    title = f"{_base(arguments.truth)}, {result['count']:,} images"
    lines = {_base(name): entry["curves"] for name, entry in result["estimators"].items()}
    return [
        figure.examples(pictures).write(beside(file, ".png")),
        figure.curves(lines, title).write(beside(file, "-curves.png"), dpi=110),
    ]


def predict(image: np.ndarray, name: str, refine: str) -> tuple[np.ndarray, float]:
    """An estimator's map of an (H, W, 3) image as (H, W) uint8, and the CPU milliseconds it took
    before resizing."""
    estimator = estimators.load(name, refine=refine)
    start = time.process_time()
    saliency = estimator.working(image)
    milliseconds = 1e3 * (time.process_time() - start)
    saliency = resize(saliency, image.shape[1], image.shape[0])
    return np.rint(np.clip(saliency, 0, 1) * 255).astype(np.uint8), milliseconds


def _base(path: str) -> str:
    return os.path.basename(path.rstrip("/"))


def _paths(arguments: Arguments) -> tuple[list[bytes], dict[str, list[str]]]:
    """The images that are scored, and by the reason those of the folder that cannot be.

    Raises:
        UsageError: no image with a true mask, or two images that share one.
    """
    folders = [os.path.realpath(folder) for folder in (arguments.truth, arguments.maps) if folder]
    beside = os.path.realpath(arguments.images) in folders
    paths = list_images(arguments.images).tolist()
    if beside:  # x.png is then x.jpg's mask or map
        paths = [path for path in paths if not path.endswith(b".png")]
    if arguments.half != "all":
        paths = [path for path in paths if _is_odd(path) == (arguments.half == "odd")]
    masks: dict[str, bytes] = {}
    without = []
    for path in paths:
        mask = map_file(arguments.truth, path)
        if not os.path.exists(mask):
            without.append(os.fsdecode(path))
        elif masks.setdefault(mask, path) != path:
            both = f"{os.fsdecode(masks[mask])} and {os.fsdecode(path)}"
            raise UsageError(f"{mask}: is the true mask of both {both}; remove one of the images")
    if not masks:
        raise UsageError(f"{arguments.truth}: no mask (.png) of any image in {arguments.images}")
    paths = list(masks.values())
    limit = min(arguments.limit or len(paths), len(paths))
    chosen = [paths[i * len(paths) // limit] for i in range(limit)]
    return chosen, {"true mask: none": without} if without else {}


def _is_odd(path: bytes) -> bool:
    numbers = re.findall(rb"\d+", os.path.splitext(path)[0])
    if not numbers:
        raise UsageError(f"--half needs numbered images; {os.fsdecode(path)} has no number")
    return int(numbers[-1]) % 2 == 1


def _description(name: str, refine: str) -> dict:
    """What identifies an estimator in the result."""
    try:
        estimator = estimators.load(name, refine=refine)
    except ValueError as error:
        raise UsageError(str(error)) from error
    description = {"version": estimator.version, "parameters": estimator.parameters}
    return description | ({"weights": estimator.weights} if estimator.weights else {})


Row = list[tuple[Scores, float]]  # of an image: scores and milliseconds by estimator


def _score_all(
    arguments: Arguments, paths: list[bytes]
) -> tuple[dict[bytes, Row], dict[str, list[str]]]:
    """The rows by path, and the paths that have none by the reason."""
    done = bounded_map(partial(_score_image, arguments), paths, arguments.workers)
    bar = tqdm(done, "saliency", len(paths), leave=False, unit="img")
    rows, left_out = {}, defaultdict(list)
    for path, row in zip(paths, bar, strict=True):
        if isinstance(row, str):
            left_out[row].append(os.fsdecode(path))
        else:
            rows[path] = row
    if 2 * len(rows) < len(paths):
        count, reasons = f"only {len(rows)} of {len(paths)} images", "; ".join(_reasons(left_out))
        raise UsageError(f"{arguments.images}: {count} can be scored: {reasons}")
    return rows, left_out


def _score_image(arguments: Arguments, path: bytes) -> Row | str:
    try:
        _, truth, maps = _read(arguments, path)
    except ImageError as error:
        return str(error)
    foreground = truth >= FOREGROUND
    nearest = nearest_foreground(foreground)
    return [(score(saliency, foreground, nearest), ms) for saliency, ms in maps.values()]


def _pictures(arguments: Arguments, path: bytes) -> dict[str, np.ndarray]:
    """A row of the figure of examples: pictures by title."""
    image, truth, maps = _read(arguments, path)
    titled = {_base(name): saliency for name, (saliency, _) in maps.items()}
    return {"image": image, "truth": truth, **titled}


def _read(arguments: Arguments, path: bytes) -> tuple[np.ndarray, np.ndarray, dict[str, tuple]]:
    """An image, (H, W, 3) uint8 RGB; its true mask, (H, W) uint8; and by estimator its map, (H, W)
    uint8, with the CPU milliseconds that it took (0 for a map on disk).

    Raises:
        ImageError: a file that is missing, ambiguous, or of another size; the file is not named.
    """
    try:
        content = read_bytes(arguments.images, path)
        image = decode(content)
    except ImageError as error:
        raise ImageError(error.reason, f"image {error.reason}") from error

    def grey(folder: str, what: str) -> np.ndarray:
        try:
            levels = read_map(folder, path, content)
        except ImageError as error:
            reason = str(error).removeprefix(f"{map_file(folder, path)}: ")
            raise ImageError(error.reason, f"{what}: {reason}") from error
        if levels.shape != image.shape[:2]:
            raise ImageError("no_map", f"{what}: of another size than its image")
        return np.rint(255 * levels).astype(np.uint8)

    truth, folder = grey(arguments.truth, "true mask"), arguments.maps
    if folder:
        return image, truth, {folder: (grey(folder, "map"), 0.0)}
    maps = {name: predict(image, name, arguments.refine) for name in arguments.names}
    return image, truth, maps
