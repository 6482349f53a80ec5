"""How a detector is trained: MoCo's detectron2 configurations."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from data.cli import UsageError, require


@dataclass(frozen=True)
class Schedule:
    """Training of a detector by SGD.

    Attributes:
        iterations: steps in all.
        drops: steps at which the rate falls to a tenth.
        warmup: steps over which the rate grows linearly from a thousandth of itself.
        lr: for `batch` images a step, over all processes.
        scales: short sides in pixels, one drawn an image; the long side is at most `longest`.
        test_scale: short side at test.
        weight_decay: of weights; norms have none (detectron2's default).
        precise_bn: batches that BatchNorm's statistics are recomputed from after training
            (MoCo's PRECISE_BN).
    """

    iterations: int
    drops: tuple[int, ...]
    warmup: int
    scales: tuple[int, ...]
    lr: float = 0.02
    batch: int = 16
    test_scale: int = 800
    longest: int = 1333
    weight_decay: float = 1e-4
    momentum: float = 0.9
    precise_bn: int = 200
    seed: int = 0

    def factor(self, step: int) -> float:
        """What the rate is multiplied by at a step, 0 being the first."""
        warm = min(1.0, step / self.warmup) if self.warmup else 1.0
        return (0.001 * (1 - warm) + warm) * 0.1 ** sum(step >= drop for drop in self.drops)

    def with_batch(self, batch: int) -> Schedule:
        """The same number of images in other batches: rate in proportion, steps inversely (MoCo's
        advice)."""
        ratio = self.batch / batch
        return replace(
            self,
            batch=batch,
            lr=self.lr / ratio,
            iterations=max(1, round(self.iterations * ratio)),
            warmup=max(1, round(self.warmup * ratio)),
            drops=tuple(round(d * ratio) for d in self.drops),
        )

    def with_iterations(self, iterations: int) -> Schedule:
        """Another number of steps: rate drops in proportion, and the warm-up no longer than it."""
        share = iterations / self.iterations
        return replace(
            self,
            iterations=iterations,
            warmup=round(self.warmup * min(1, share)),
            drops=tuple(round(drop * share) for drop in self.drops),
        )

    def check(self) -> None:
        """UsageError where a value cannot be meant."""
        require(self, iterations=1, warmup=0, precise_bn=0, lr=0, weight_decay=0)
        sides = (*self.scales, self.test_scale)
        if not self.scales or min(sides) < 16 or max(sides) > self.longest:
            raise UsageError(
                f"--scales {self.scales}, --test-scale {self.test_scale}: short sides from 16 to "
                f"{self.longest} pixels"
            )


@dataclass(frozen=True)
class Runtime:
    """Where and how a detector is trained and run.

    Attributes:
        workers: processes that decode; None: see train.workers.fit_workers.
        half: bf16 on a GPU.
        sync_bn: BatchNorm over the images of all processes.
        save_every: steps between two checkpoints.
    """

    device: torch.device
    workers: int | None = 0
    half: bool = False
    sync_bn: bool = True
    save_every: int = 1000

    def autocast(self) -> torch.autocast:
        """What the forward pass runs in."""
        enabled = self.half and self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def to_input(self, image: torch.Tensor) -> torch.Tensor:
        """(3, h, w) uint8 to float32 of 0..1 on the device, as torchvision's detectors take it."""
        return image.to(self.device, non_blocking=True).float() / 255


SCHEDULES = {
    # Base-RCNN-C4-BN.yaml and pascal_voc_R_50_C4_24k.yaml: 23 epochs of VOC07+12
    "voc_24k": Schedule(24000, (18000, 22000), 100, tuple(range(480, 801, 32))),
    # coco_R_50_C4_2x.yaml with half the steps, detectron2's 1x: 12 epochs of COCO
    "coco_1x": Schedule(90000, (60000, 80000), 1000, tuple(range(640, 801, 32))),
    "coco_2x": Schedule(180000, (120000, 160000), 1000, tuple(range(640, 801, 32))),
}
