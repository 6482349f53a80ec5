"""InstDisc: a class for every image, told from noise by a memory bank (Wu et al., CVPR 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from train.config import Config
from train.distributed import gather, local_part, world
from train.methods.heads import mlp
from train.network import backbone
from train.streams import NOISE, stream


def nce(
    logits: torch.Tensor, log_z: torch.Tensor, images: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise-contrastive estimation against uniform noise (Wu et al., equations 5 to 7).

    With P = exp(logit) / Z and noise of density 1 / N, h = P / (P + m / N) is the probability that
    a sample is data; the loss of an image is -log h of its own entry and -log(1 - h) of each of m
    noise samples. h is a sigmoid of the logit's distance from log(Z m / N), and that is how it is
    computed.

    Args:
        logits: (B, 1 + m), similarities over the temperature; column 0 is the image's own entry.
        log_z: scalar, log of the normalising constant.  images: N.

    Returns:
        the mean loss, a scalar, and the share of images whose own entry is the most similar, in
        0..1.
    """
    own, noise = logits[:, 0], logits[:, 1:]
    boundary = log_z + math.log(noise.shape[1] / images)
    losses = F.softplus(boundary - own) + F.softplus(noise - boundary).sum(1)
    return losses.mean(), (own >= noise.amax(1)).float().mean()


class InstDisc(nn.Module):
    """Encoder and memory bank.

    NOTE: as in the authors' ImageNet code, without the proximal regularisation of the paper's
        section 3.3.

    Args:
        backbone: makes a network with an `fc`, which becomes the head: one linear layer, or two
            with `mlp_head`.
        images: N, entries of the bank.  dim: D.  temperature: T.
        negatives: m, noise samples for each image, drawn anew each step, with replacement, from
            (seed, step).
        bank_momentum: share of an entry that stays when it meets its image again.
    """

    VIEWS = 1

    def __init__(
        self,
        backbone: Callable[[], nn.Module],
        images: int,
        dim: int,
        temperature: float,
        negatives: int = 4096,
        bank_momentum: float = 0.5,
        mlp_head: bool = False,
        head_norm: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        self.temperature, self.negatives, self.bank_momentum, self.seed = (
            temperature,
            negatives,
            bank_momentum,
            seed,
        )
        self.encoder = backbone()
        features = self.encoder.fc.in_features
        self.encoder.fc = (
            mlp(features, features, dim, head_norm) if mlp_head else nn.Linear(features, dim)
        )
        self.register_buffer("bank", F.normalize(torch.randn(images, dim), dim=1))
        self.register_buffer("log_z", torch.zeros(()))

    def forward(
        self,
        views: Sequence[torch.Tensor],
        step: int,
        index: torch.Tensor,
        negative: torch.Tensor | None = None,
        counts: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See train/methods/__init__.py; moves the bank's entries of this batch. `negative` is not
        used."""
        query = F.normalize(self.encoder(views[0]), dim=1)
        with torch.autocast(
            query.device.type, enabled=False
        ):  # a logit of 1 / T in bfloat16 would be 3 % off
            query = query.float()
            entries = self.bank[
                torch.cat([index[:, None], self._noise(step, index)], 1)
            ]  # (B, 1 + m, D)
            logits = (entries @ query[:, :, None])[:, :, 0] / self.temperature
            if step == 0:
                self._estimate_z(logits.detach())
            loss, accuracy = nce(logits, self.log_z, len(self.bank))
        self._remember(query.detach(), index)
        return loss, accuracy

    def _noise(self, step: int, index: torch.Tensor) -> torch.Tensor:
        """(B, m) entries for this process's images: its rows of those drawn for the global
        batch."""
        drawn = stream(NOISE, self.seed, 0, step).integers(
            len(self.bank), size=(world() * len(index), self.negatives)
        )
        return local_part(torch.from_numpy(drawn)).to(index.device, non_blocking=True)

    @torch.no_grad()
    def _estimate_z(self, logits: torch.Tensor) -> None:
        """Z is N times the mean of exp(logit) over the first global batch, and stays (the paper's
        equation 8)."""
        total = gather(logits.logsumexp((0, 1)).reshape(1)).logsumexp(0)
        self.log_z.copy_(total + math.log(len(self.bank) / (world() * logits.numel())))

    @torch.no_grad()
    def _remember(self, query: torch.Tensor, index: torch.Tensor) -> None:
        query, index = gather(query), gather(index)
        self.bank[index] = F.normalize(
            torch.lerp(query, self.bank[index], self.bank_momentum), dim=1
        )


def make(config: Config, images: int) -> InstDisc:
    """The method of a configuration."""
    return InstDisc(
        lambda: backbone(config.network, config.stem, config.width, config.splits),
        images,
        config.dim,
        config.temperature,
        config.negatives,
        config.bank_momentum,
        config.head == "mlp",
        config.head_norm,
        config.seed,
    )
