"""Vision transformers of DINO and DINOv2, recognised by their files' shapes; their key features."""

import re

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from data.cli import UsageError

HEAD = 64  # channels of an attention head in all of DINO's and DINOv2's networks
# larger ones are no network of theirs
LIMITS = {"patch": 32, "channels": 1536, "blocks": 40, "grid": 64}
# ViT-S/16 at 224 px
SMALL = {"patch": 16, "channels": 384, "blocks": 12, "grid": 14, "scaled": False}
KNOWN = {"patch_embed.proj.weight": 4, "pos_embed": 3, "blocks.0.attn.qkv.weight": 2}  # dimensions


def shape_of(state: dict[str, Tensor]) -> dict[str, int | bool]:
    """Patch side in px, channels, blocks, side of the grid of positions, and whether blocks scale
    their branches.

    Raises:
        UsageError: no vision transformer, or one larger than LIMITS.
    """
    missing = [key for key, ndim in KNOWN.items() if key not in state or state[key].ndim != ndim]
    if missing:
        raise UsageError(f"no vision transformer: {', '.join(missing)} is missing")
    channels, _, _, patch = state["patch_embed.proj.weight"].shape
    numbers = [int(m[1]) for key in state if (m := re.match(r"blocks\.(\d{1,4})\.", key))]
    grid = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    shape = {"patch": patch, "channels": channels, "blocks": max(numbers) + 1, "grid": grid}
    if any(not 1 <= shape[name] <= limit for name, limit in LIMITS.items()):
        raise UsageError(
            f"no vision transformer of DINO or DINOv2: {shape}, where {LIMITS} is the most"
        )
    return {**shape, "scaled": "blocks.0.ls1.gamma" in state}


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
    """Keys of the last block's attention, all heads side by side.

    Args:
        x: (B, 3, H, W) normalised images.

    Returns:
        (B, N, C), of the N patches.
    """
    outputs: list[Tensor] = []
    qkv = network.blocks[-1].attn.qkv
    hook = qkv.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        network.forward_features(x)
    finally:
        hook.remove()
    return outputs[0].chunk(3, -1)[1][:, network.num_prefix_tokens :]
