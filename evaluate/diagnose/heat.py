"""Where in the image a decision comes from: gradient heat maps of a frozen network with a kNN or a
linear decision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from data.cli import UsageError
from evaluate.features import Encoder, to_input
from evaluate.probes.linear import Probe

METHODS = ("gradcam", "gradient_input")
# least side of the map: a stage that is smaller (a 32 px image's last one) says nothing of places
GRID = 4
STAGES = ("layer1", "layer2", "layer3", "layer4")

Score = Callable[[torch.Tensor], torch.Tensor]  # (B, D) features -> (B,) scores


def stage_of(encoder: Encoder, stage: int | None = None) -> tuple[str, int]:
    """The stage whose output the maps are made at, and that output's side: the last one of at least
    GRID x GRID.

    Args:
        stage: 1..4 instead.

    Raises:
        UsageError: no such stage, or a network without them.
    """
    if stage is not None and stage not in range(1, 5):
        raise UsageError(f"--stage {stage}: a ResNet has the stages 1 to 4")
    sides: dict[str, int] = {}
    handles = []
    try:
        for name in STAGES:
            layer = getattr(encoder.model, name, None)
            if layer is None:
                raise UsageError("heat maps need a ResNet's layer1 to layer4")
            handles.append(
                layer.register_forward_hook(
                    lambda module, given, out, name=name: sides.__setitem__(name, out.shape[-1])
                )
            )
        with torch.inference_mode():
            encoder.model(torch.zeros(1, 3, encoder.size, encoder.size, device=encoder.device))
    finally:
        for handle in handles:
            handle.remove()
    chosen = (
        STAGES[stage - 1]
        if stage
        else next((n for n in reversed(STAGES) if sides[n] >= GRID), STAGES[0])
    )
    return chosen, sides[chosen]


def heat(encoder: Encoder, crops: torch.Tensor, score: Score, stage: str) -> dict[str, np.ndarray]:
    """Heat maps of a batch's decisions.

    - gradcam: the stage's activations weighted by the mean gradient of their channel, negative
      parts cut (Selvaraju et al., ICCV 2017, equations 1 and 2).
    - gradient_input: |gradient x pixel|, summed over colours, averaged to the stage's resolution,
      as single pixels of a gradient are noise (Shrikumar et al., arXiv 1605.01713).

    Args:
        crops: (B, s, s, 3) uint8.  score: of the decision, for each image on its own.  stage: a
            name of STAGES.

    Returns:
        {name of METHODS: (B, s, s) float32, not negative, sum 1; all zero where no gradient is}:
        upsampled bilinearly.
    """
    pixels = to_input(crops, encoder.device).detach().requires_grad_(True)
    kept: list[torch.Tensor] = []
    handle = getattr(encoder.model, stage).register_forward_hook(
        lambda module, given, out: kept.append(out)
    )
    try:
        with torch.enable_grad():
            total = score(encoder.model(pixels).float()).sum()
            at_stage, at_pixels = torch.autograd.grad(total, [kept[0], pixels])
    finally:
        handle.remove()
    cam = F.relu((at_stage.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True))
    gradient = F.adaptive_avg_pool2d(
        (at_pixels * pixels).sum(1, keepdim=True).abs(), kept[0].shape[2:]
    )
    found = {}
    for name, coarse in zip(METHODS, (cam, gradient), strict=True):
        maps = F.interpolate(
            coarse.detach().float(), pixels.shape[2:], mode="bilinear", align_corners=False
        )[:, 0]
        maps = maps / maps.sum((1, 2), keepdim=True).clamp_min(1e-30)
        found[name] = maps.cpu().numpy()
    return found


def knn_score(
    bank: torch.Tensor,
    labels: torch.Tensor,
    rows: torch.Tensor,
    decided: torch.Tensor,
    temperature: float,
) -> Score:
    """The log of the decided class's vote, the sum of exp(cosine / T) over its neighbours among the
    k nearest.

    The vote itself and not its share: where all neighbours are of one class the share is 1 and has
        no gradient.

    Args:
        bank: (N, D) float32, normalised.  labels: (N,) int64.  rows: (B, k) int64 neighbours.
            decided: (B,) classes.
    """
    near = bank[rows]
    others = labels[rows] != decided[:, None]

    def score(features: torch.Tensor) -> torch.Tensor:
        cosine = torch.einsum("bd,bkd->bk", F.normalize(features, dim=1), near)
        return (cosine / temperature).masked_fill(others, -torch.inf).logsumexp(1)

    return score


def linear_score(probe: Probe, decided: torch.Tensor, device: torch.device) -> Score:
    """The decided class's logit less the mean logit, which no decision depends on."""
    mean, deviation, weight, bias = (
        t.to(device, torch.float32) for t in (probe.mean, probe.deviation, probe.weight, probe.bias)
    )

    def score(features: torch.Tensor) -> torch.Tensor:
        logits = ((features - mean) / deviation) @ weight.T + bias
        return logits.gather(1, decided[:, None])[:, 0] - logits.mean(1)

    return score
