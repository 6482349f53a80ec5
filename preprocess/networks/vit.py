"""Vision transformers of DINO and DINOv2, recognised by their files' keys and shapes, and their key
features."""

from __future__ import annotations

import re

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from data.cli import UsageError

HEAD = 64  # channels of an attention head in all of DINO's and DINOv2's networks
LIMITS = {
    "patch": 32,
    "channels": 1536,
    "blocks": 40,
    "grid": 64,
}  # larger ones are no network of theirs
SMALL = {
    "patch": 16,
    "channels": 384,
    "blocks": 12,
    "grid": 14,
    "scaled": False,
}  # ViT-S/16 at 224 px
KNOWN = "patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight"


def shape_of(state: dict[str, Tensor]) -> dict[str, int | bool]:
    """Patch side in px, channels, blocks, side of the grid of positions, and whether blocks scale
    their branches.

    Raises:
        UsageError: no vision transformer, or one larger than LIMITS.
    """
    if any(key not in state for key in KNOWN):
        raise UsageError(
            f"no vision transformer: {', '.join(key for key in KNOWN if key not in state)} is missing"
        )
    patch, positions = state[KNOWN[0]], state[KNOWN[1]]
    if patch.ndim != 4 or positions.ndim != 3:
        raise UsageError(
            f"no vision transformer: {KNOWN[0]} {tuple(patch.shape)}, pos_embed {tuple(positions.shape)}"
        )
    numbers = [int(m[1]) for key in state if (m := re.match(r"blocks\.(\d{1,4})\.", key))]
    found = {
        "patch": patch.shape[-1],
        "channels": patch.shape[0],
        "blocks": max(numbers) + 1,
        "grid": round((positions.shape[1] - 1) ** 0.5),
    }
    if any(not 1 <= found[name] <= most for name, most in LIMITS.items()):
        raise UsageError(
            f"no vision transformer of DINO or DINOv2: {found}, where {LIMITS} is the most"
        )
    return {**found, "scaled": "blocks.0.ls1.gamma" in state}


def build(patch: int, channels: int, blocks: int, grid: int, scaled: bool) -> VisionTransformer:
    """timm's network of that shape, for images of any size; without its classifier."""
    return VisionTransformer(
        img_size=grid * patch,
        patch_size=patch,
        embed_dim=channels,
        depth=blocks,
        num_heads=max(1, channels // HEAD),
        init_values=1.0 if scaled else None,
        num_classes=0,
        dynamic_img_size=True,
    )


def keys(network: VisionTransformer, x: Tensor) -> Tensor:
    """(B, N, C) keys of the last block's attention, all heads side by side, of the N patches of (B,
    3, H, W) images."""
    seen: list[Tensor] = []
    hook = network.blocks[-1].attn.qkv.register_forward_hook(
        lambda module, given, out: seen.append(out)
    )
    try:
        network.forward_features(x)
    finally:
        hook.remove()
    return seen[0].chunk(3, -1)[1][:, network.num_prefix_tokens :]


def official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2's files without the mask token, and any without a head, which inference does not
    use."""
    return {
        key: value
        for key, value in state.items()
        if key != "mask_token" and not key.startswith("head.")
    }


def normalise(batch: Tensor) -> Tensor:
    """(B, h, w, 3) uint8 to (B, 3, h, w) float32 with ImageNet's mean and deviation."""
    from preprocess.networks.squashed import MEAN, STD

    mean, std = (torch.tensor(v, device=batch.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (batch.permute(0, 3, 1, 2).float() / 255 - mean) / std
