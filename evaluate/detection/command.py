"""Detection transfer: fine-tune a whole detector from pretrained weights on PASCAL VOC or COCO, and
its AP.

Faster R-CNN R50-C4 on VOC (DIR holds VOC2007/ and VOC2012/), and Mask R-CNN on COCO:

    python -m evaluate detection --run RUN --data VOCdevkit
    python -m evaluate detection --weights moco_v2_200ep.pth.tar --data coco \\
        --dataset coco --model mask
    python -m train.launch --standalone --nproc-per-node 8 -m evaluate detection \\
        --run RUN --data VOCdevkit --workers 8 --seeds 5

VOC is learnt from VOC07+12 trainval and tested on VOC07 test; COCO
(annotations/instances_train2017.json, train2017/, and val2017 likewise) on 2017's. Schedules are
MoCo's detectron2 configurations; docs/detection.md says what differs and which numbers to expect.
The detector is kept beside the JSON; the same command continues a stopped one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from data.cli import UsageError, require
from evaluate.common import Common, describe, percent, repeat
from evaluate.detection.annotations import AnnotatedImages
from evaluate.detection.average_precision import coco_ap, voc07_ap
from evaluate.detection.coco import read_coco
from evaluate.detection.models import build
from evaluate.detection.schedules import SCHEDULES, Runtime, Schedule
from evaluate.detection.testing import detect
from evaluate.detection.training import fit
from evaluate.detection.voc import read_voc
from train import distributed
from train.weights import load_source

MODELS = {
    "c4": "Faster R-CNN C4, extra norm after layer4",
    "fpn": "Faster R-CNN FPN",
    "mask": "Mask R-CNN FPN",
}
MEASURES = {
    "box": "boxes, COCO's AP",
    "mask": "masks, COCO's AP",
    "voc07": "boxes, VOC 2007's AP (11 points)",
}
CHANGES = ("batch", "iterations", "lr", "scales", "test_scale", "precise_bn")


@dataclass(frozen=True)
class Arguments(Common):
    """Options of the detection transfer."""

    dataset: Literal["voc", "coco"] = "voc"
    """voc: the devkit's folders, or one with JPEGImages, Annotations and
    ImageSets/Main/{trainval,test}.txt. coco: annotations/instances_{train,val}2017.json,
    train2017/, val2017/."""
    model: Literal["c4", "fpn", "mask"] = "c4"
    """c4: Faster R-CNN on layer3. fpn: Faster R-CNN on a pyramid. mask: Mask R-CNN on a pyramid
    (coco only)."""
    schedule: Literal["voc_24k", "coco_1x", "coco_2x"] | None = None
    """Training steps, rates and scales (default: voc_24k for voc, coco_1x for coco)."""
    batch: int | None = None
    """Images a step over all processes (default 16); another one changes rate and steps in
    proportion."""
    iterations: int | None = None
    """Training steps, instead of the schedule's; its rate drops and warm-up shrink with them."""
    lr: float | None = None
    """Learning rate, instead of the schedule's 0.02 for 16 images."""
    scales: tuple[int, ...] | None = None
    """Short sides of training images in pixels, one drawn an image, instead of the schedule's."""
    test_scale: int | None = None
    """Short side of test images in pixels (default 800)."""
    regions: int = 512
    """Region proposals that the heads learn from in an image."""
    sync_bn: bool = True
    """BatchNorm over the images of all processes."""
    precise_bn: int | None = None
    """Batches that BatchNorm's statistics are computed from after training (default 200); 0 keeps
    the running ones."""
    amp: bool = False
    """bf16 on a GPU; the published numbers are of float32."""
    save_every: int = 1000
    """Steps between two checkpoints."""
    seeds: int = 1
    """Repeat with seeds 0, 1, ... and report mean and deviation; MoCo's table has 5."""

    draws: ClassVar[bool] = True
    folders: ClassVar[tuple[str, ...]] = (
        *("VOCdevkit", "VOC2007", "VOC2012", "JPEGImages", "Annotations", "ImageSets"),
        *("annotations", "train2017", "val2017"),
    )

    @property
    def evaluation(self) -> str:
        return f"detection-{self.dataset}-{self.model}"

    @property
    def schedule_name(self) -> str:
        """The schedule, given or the data set's."""
        return self.schedule or {"voc": "voc_24k", "coco": "coco_1x"}[self.dataset]

    @property
    def changes(self) -> dict:
        """What this command line gives instead of the schedule's."""
        given = {key: getattr(self, key) for key in CHANGES}
        return {key: value for key, value in given.items() if value is not None}

    def plan(self) -> Schedule:
        """The schedule with this command line's changes. UsageError where they cannot be meant."""
        require(self, batch=1, regions=1, save_every=1)
        changes = self.changes
        schedule = SCHEDULES[self.schedule_name]
        if "batch" in changes:
            schedule = schedule.with_batch(changes.pop("batch"))
        if "iterations" in changes:
            schedule = schedule.with_iterations(changes.pop("iterations"))
        schedule = replace(schedule, **changes)
        schedule.check()
        if self.model == "mask" and self.dataset == "voc":
            raise UsageError(
                "--model mask needs outlines, which VOC has not; use c4 or fpn, or --dataset coco"
            )
        if self.size is not None:
            raise UsageError(
                "--size is of crops; a detector's images are given by --scales and --test-scale"
            )
        return schedule

    def images(self) -> tuple[AnnotatedImages, AnnotatedImages]:
        """Training and test images. UsageError as the readers, or where the two do not belong
        together."""
        if self.dataset == "voc":
            train, test = read_voc(self.data)
        else:
            train, test = (
                read_coco(
                    Path(self.data, "annotations", f"instances_{split}.json"),
                    Path(self.data, split),
                    f"COCO {split}",
                    self.model == "mask",
                )
                for split in ("train2017", "val2017")
            )
            train.require_files(train.learnable())
            test.require_files(np.arange(len(test)))
        if train.truth["categories"] != test.truth["categories"]:
            raise UsageError(f"{self.data}: train2017 and val2017 have different categories")
        if all(a["iscrowd"] for a in test.truth["annotations"]):
            raise UsageError(f"{self.data}: {test.name} has no object that counts; its AP is void")
        return train, test


def evaluate(arguments: Arguments) -> dict:
    """AP of a detector fine-tuned from the weights.

    Returns:
        the protocol's parameters, and `accuracy`: {"box": {"AP", "AP50", "AP75", "per_class":
        {name: AP}}} in percent by COCO's measure; "mask" likewise for a model with masks; "voc07"
        by VOC 2007's for voc, which is what published VOC tables have. Means over seeds; see
        evaluate.common.repeat.
    """
    arguments.check()
    schedule = arguments.plan()
    runtime = Runtime(
        distributed.start(arguments.device),
        arguments.workers,
        arguments.amp,
        arguments.sync_bn,
        arguments.save_every,
    )
    weights = load_source(arguments.run, arguments.weights, arguments.stem)
    train, test = arguments.images()
    settings = asdict(schedule)
    settings.pop("seed")
    half = arguments.amp and runtime.device.type == "cuda"
    protocol = {
        "name": f"{MODELS[arguments.model]}, {weights.network}, everything trained",
        "dataset": arguments.dataset,
        "model": arguments.model,
        "schedule": arguments.schedule_name,
        "changed": list(arguments.changes),
        **settings,
        "solver": "SGD",
        "regions": arguments.regions,
        "sync_bn": arguments.sync_bn,
        "precision": "bf16" if half else "float32",
        "processes": distributed.world(),
        "train": train.name,
        "test": test.name,
        "train_images": len(train.learnable()),
        "test_images": len(test),
        "classes": len(train.classes),
        "seeds": arguments.seeds,
    }
    identity = {"weights": weights.digest()}
    identity |= {key: getattr(arguments, key) for key in ("untrained", "model", "regions")}

    def measure(_: Common, seed: int) -> dict:
        detector = build(
            weights,
            arguments.model,
            len(train.classes),
            seed,
            arguments.untrained,
            arguments.regions,
        )
        seeded = replace(schedule, seed=seed)
        detector = fit(detector, train, seeded, arguments.kept_file(seed), identity, runtime)
        detections = detect(detector, test, seeded, runtime)
        accuracy = {"box": coco_ap(test.truth, detections)}
        if arguments.model == "mask":
            accuracy["mask"] = coco_ap(test.truth, detections, "segm")
        if arguments.dataset == "voc":
            accuracy["voc07"] = voc07_ap(test.truth, detections)
        return arguments.result(protocol, accuracy=accuracy)

    return repeat(arguments, measure)


def lines(result: dict) -> list[str]:
    """The protocol, and the APs by each measure."""
    shown = [f"{result['evaluation']} ({describe(result['protocol'])})"]
    for kind, what in MEASURES.items():
        if kind in result["accuracy"]:
            keys = ("AP", "AP50", "AP75")
            numbers = [f"{key} {percent(result, kind, key).strip()}" for key in keys]
            shown.append(f"  {what}: {', '.join(numbers)}")
    return shown
