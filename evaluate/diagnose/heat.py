"""Where in the image a decision comes from: gradient heat maps of a frozen network with a kNN or a
linear decision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from evaluate.features import Encoder
from evaluate.probes.linear import Probe
from train.features import to_input

# least side of the map: a stage that is smaller (a 32 px image's last one) says nothing of places
GRID = 4
STAGES = ("layer1", "layer2", "layer3", "layer4")

Score = Callable[[torch.Tensor], torch.Tensor]  # (B, D) features -> (B,) scores


def stage_of(encoder: Encoder, stage: int | None = None) -> tuple[str, int]:
    """The stage whose output the maps are made at, and that output's side: the last one of at least
    GRID x GRID.

    Args:
        stage: 1..4 instead.
    """
    empty = torch.zeros(1, 3, encoder.size, encoder.size, device=encoder.device)
    side = 0
    for name in STAGES[::-1] if stage is None else STAGES[stage - 1 : stage]:
        with torch.inference_mode():
            side = _run(encoder, empty, name)[1].shape[-1]
        if side >= GRID:
            break
    return name, side


def _run(encoder: Encoder, pixels: torch.Tensor, stage: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, D) float32 features, and the output of a stage on the way to them."""
    outputs: list[torch.Tensor] = []
    layer = getattr(encoder.model, stage)
    handle = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        return encoder.model(pixels).float(), outputs[0]
    finally:
        handle.remove()


def heat(encoder: Encoder, crops: torch.Tensor, score: Score, stage: str) -> dict[str, np.ndarray]:
    """Heat maps of a batch's decisions.

    - gradcam: the stage's activations weighted by the mean gradient of their channel, negative
      parts cut (Selvaraju et al., ICCV 2017, equations 1 and 2).
    - gradient_input: |gradient x pixel|, summed over colours, averaged to the stage's resolution,
      as single pixels of a gradient are noise (Shrikumar et al., arXiv 1605.01713).

    Args:
        crops: (B, s, s, 3) uint8.
        score: of the decision, for each image on its own.
        stage: a name of STAGES.

    Returns:
        {method: (B, s, s) float32, not negative, sum 1; all zero where no gradient is}: upsampled
        bilinearly.
    """
    pixels = to_input(crops, encoder.device).detach().requires_grad_(True)
    with torch.enable_grad():
        features, activations = _run(encoder, pixels, stage)
        gradients = torch.autograd.grad(score(features).sum(), [activations, pixels])
    weights = gradients[0].mean((2, 3), keepdim=True)
    cam = F.relu((weights * activations).sum(1, keepdim=True))
    product = (gradients[1] * pixels).sum(1, keepdim=True).abs()
    coarse = {
        "gradcam": cam,
        "gradient_input": F.adaptive_avg_pool2d(product, activations.shape[2:]),
    }
    return {method: _upsampled(values, crops.shape[1]) for method, values in coarse.items()}


def _upsampled(coarse: torch.Tensor, side: int) -> np.ndarray:
    maps = F.interpolate(
        coarse.detach().float(), (side, side), mode="bilinear", align_corners=False
    )[:, 0]
    return (maps / maps.sum((1, 2), keepdim=True).clamp_min(1e-30)).cpu().numpy()


def knn_score(
    bank: torch.Tensor,
    labels: torch.Tensor,
    rows: torch.Tensor,
    decided: torch.Tensor,
    temperature: float,
) -> Score:
    """The log of the decided class's vote, the sum of exp(cosine / T) over its neighbours among the
    k nearest.

    NOTE: the vote itself and not its share: where all neighbours are of one class the share is 1
    and has no gradient.

    Args:
        bank: (N, D) float32, normalised.
        labels: (N,) int64.
        rows: (B, k) int64 neighbours.
        decided: (B,) classes.
    """
    near, others = bank[rows], labels[rows] != decided[:, None]

    def score(features: torch.Tensor) -> torch.Tensor:
        device = features.device
        cosine = torch.einsum("bd,bkd->bk", F.normalize(features, dim=1), near.to(device))
        votes = (cosine / temperature).masked_fill(others.to(device), -torch.inf)
        return votes.logsumexp(1)

    return score


def linear_score(probe: Probe, decided: torch.Tensor) -> Score:
    """The decided class's logit less the mean logit, which no decision depends on."""

    def score(features: torch.Tensor) -> torch.Tensor:
        mean, deviation, weight, bias = (
            values.to(features.device, torch.float32)
            for values in (probe.mean, probe.deviation, probe.weight, probe.bias)
        )
        logits = ((features - mean) / deviation) @ weight.T + bias
        own = logits.gather(1, decided[:, None].to(features.device))[:, 0]
        return own - logits.mean(1)

    return score
