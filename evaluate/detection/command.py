"""Detection transfer: fine-tune a whole detector from pretrained weights on PASCAL VOC or COCO, and
its AP.

    python -m evaluate detection --run RUN --data VOCdevkit                 # VOC2007/, VOC2012/:
    Faster R-CNN R50-C4
    python -m evaluate detection --weights moco_v2_200ep.pth.tar --data coco --dataset coco --model
    mask torchrun --nproc_per_node 8 -m evaluate detection --run RUN --data VOCdevkit --workers 8
    --seeds 5

VOC is learnt from VOC07+12 trainval and tested on VOC07 test; COCO
(annotations/instances_train2017.json, train2017/, and val2017 likewise) on 2017's. Schedules are
MoCo's detectron2 configurations; docs/detection.md says what differs and which numbers to expect.
The detector is kept beside the JSON; the same command continues a stopped one.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from data.cli import UsageError
from evaluate.common import Common, describe, over_seeds, parse, percent, publish_result
from evaluate.detection.annotations import Annotated, read_coco
from evaluate.detection.average_precision import coco_ap, voc07_ap
from evaluate.detection.models import build
from evaluate.detection.schedules import SCHEDULES, Schedule
from evaluate.detection.testing import detect
from evaluate.detection.training import fit
from evaluate.detection.voc import read_voc
from evaluate.weights import load_run_weights, load_weights
from train import distributed
from train.distributed import choose_device

MODELS = {
    "c4": "Faster R-CNN C4, extra norm after layer4",
    "fpn": "Faster R-CNN FPN",
    "mask": "Mask R-CNN FPN",
}
NUMBERS = ("AP", "AP50", "AP75")


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

    @property
    def evaluation(self) -> str:
        return f"detection-{self.dataset}-{self.model}"

    def plan(self) -> Schedule:
        """The schedule with this command line's changes. UsageError where they cannot be meant."""
        schedule = SCHEDULES[self.schedule or {"voc": "voc_24k", "coco": "coco_1x"}[self.dataset]]
        if self.batch is not None:
            schedule = schedule.with_batch(self.batch)
        if self.iterations is not None:
            share = self.iterations / schedule.iterations
            schedule = replace(
                schedule,
                iterations=self.iterations,
                warmup=round(schedule.warmup * min(1, share)),
                drops=tuple(round(drop * share) for drop in schedule.drops),
            )
        changes = {
            key: getattr(self, key)
            for key in ("lr", "scales", "test_scale", "precise_bn")
            if getattr(self, key) is not None
        }
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
        if min(self.regions, self.save_every) < 1:
            raise UsageError(
                f"--regions {self.regions}, --save-every {self.save_every}: must be at least 1"
            )
        return schedule


def read(args: Arguments) -> tuple[Annotated, Annotated]:
    """Training and test images. UsageError as the readers, or where the two do not belong
    together."""
    if args.dataset == "voc":
        train, test = read_voc(args.data)
    else:
        train, test = (
            read_coco(
                Path(args.data, "annotations", f"instances_{split}.json"),
                os.path.join(args.data, split),
                f"COCO {split}",
                args.model == "mask",
            )
            for split in ("train2017", "val2017")
        )
        if train.truth["categories"] != test.truth["categories"]:
            raise UsageError(f"{args.data}: train2017 and val2017 have different categories")
    if all(a["iscrowd"] for a in test.truth["annotations"]):
        raise UsageError(
            f"{args.data}: {test.name} has no object that counts; its AP would mean nothing"
        )
    return train, test


def run(run: str | None = None, data: str = "", **options) -> dict:
    """AP of a detector fine-tuned from the weights.

    Args:
        options: those of Arguments. `json` decides where the detectors are kept (beside it).

    Returns:
        the protocol's parameters, and `accuracy`: {"box": {"AP", "AP50", "AP75", "per_class":
        {name: AP}}} in percent by COCO's measure; "mask" likewise for a model with masks; "voc07"
        by VOC 2007's for voc, which is what published VOC tables have. Means over seeds; see
        evaluate.common.over_seeds.
    """
    args = Arguments(run, data, **options)
    args.check()
    schedule = args.plan()
    distributed.start(args.device)
    device = choose_device(args.device)
    weights = (
        load_run_weights(run) if run is not None else load_weights(args.weights or "", args.stem)
    )
    train, test = read(args)
    identity = {
        "weights": weights.digest(),
        "untrained": args.untrained,
        "model": args.model,
        "regions": args.regions,
    }

    def one(seed: int) -> dict:
        chosen = replace(schedule, seed=seed)
        detector = build(
            weights, args.model, len(train.classes), seed, args.untrained, args.regions
        )
        path = args.result_file()
        detector = fit(
            detector,
            train,
            chosen,
            path.with_name(f"{path.stem}-seed{seed}.pt"),
            identity,
            device,
            args.workers,
            args.sync_bn,
            args.amp,
            args.save_every,
        )
        found = detect(detector, test, chosen, device, args.workers, args.amp)
        accuracy = {"box": coco_ap(test.truth, found)}
        if args.model == "mask":
            accuracy["mask"] = coco_ap(test.truth, found, "segm")
        if args.dataset == "voc":
            accuracy["voc07"] = voc07_ap(test.truth, found)
        return accuracy

    accuracy = over_seeds(one, args.seeds)
    settings = {key: value for key, value in asdict(schedule).items() if key != "seed"}
    protocol = {
        "name": f"{MODELS[args.model]}, {weights.network}, everything trained",
        "dataset": args.dataset,
        "model": args.model,
        "schedule": args.schedule or {"voc": "voc_24k", "coco": "coco_1x"}[args.dataset],
        "changed": [
            key
            for key in ("batch", "iterations", "lr", "scales", "test_scale", "precise_bn")
            if getattr(args, key) is not None
        ],
        **settings,
        "solver": "SGD",
        "regions": args.regions,
        "sync_bn": args.sync_bn,
        "precision": "bf16" if args.amp and device.type == "cuda" else "float32",
        "processes": distributed.world(),
        "train": train.name,
        "test": test.name,
        "train_images": len(train.learnable()),
        "test_images": len(test),
        "classes": len(train.classes),
        "seeds": args.seeds,
    }
    return args.result(protocol, **accuracy)


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, "detection", __doc__)
    try:
        result = run(**vars(args))
        if distributed.rank() == 0:
            print(f"{result['evaluation']} ({describe(result['protocol'])})")
            for kind, what in (
                ("box", "boxes, COCO's AP"),
                ("mask", "masks, COCO's AP"),
                ("voc07", "boxes, VOC 2007's AP (11 points)"),
            ):
                if kind in result["accuracy"]:
                    print(
                        f"  {what}: "
                        + ", ".join(f"{n} {percent(result, kind, n).strip()}" for n in NUMBERS)
                    )
            publish_result(result, args)
    finally:
        distributed.stop()
