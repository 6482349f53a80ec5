"""InstDisc: a class for every image, discriminated from noise by a memory bank (Wu et al., CVPR
2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.config import Config, Count, Share
from train.distributed import gather, local_part, world
from train.methods.base import HeadSettings, Maybe, Result
from train.network import backbone_of
from train.streams import NOISE, stream


def nce(logits: Tensor, log_z: Tensor, images: int) -> Result:
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


@dataclass(frozen=True)
class Settings(HeadSettings):
    """InstDisc."""

    VIEWS: ClassVar[int] = 1
    NO_SWAP: ClassVar[str] = "takes its negatives from the memory bank alone"

    method: Literal["instdisc"] = "instdisc"
    negatives: Count = 4096
    """InstDisc: noise samples drawn from the memory bank for each image (m of NCE)."""
    bank_momentum: Share = 0.5
    """InstDisc: share of a bank entry that stays when its image is seen again."""

    def make(self, config: Config, images: int) -> InstDisc:
        """The method of a configuration."""
        return InstDisc(backbone_of(config.network), self, images, config.seed)


class InstDisc(nn.Module):
    """Encoder and memory bank.

    NOTE: as in the authors' ImageNet code, without the proximal regularisation of the paper's
    section 3.3. Noise is drawn at each step, with replacement, from (seed, step).

    Args:
        network: has an `fc`, which becomes the head.
        images: N, entries of the bank.
        seed: of the noise.
    """

    def __init__(self, network: nn.Module, settings: Settings, images: int, seed: int = 0):
        super().__init__()
        self.settings, self.seed = settings, seed
        self.encoder = network
        self.encoder.fc = settings.projection(network.fc.in_features)
        self.register_buffer("bank", F.normalize(torch.randn(images, settings.dim), dim=1))
        self.register_buffer("log_z", torch.zeros(()))

    def forward(self, views: Sequence[Tensor], step: int, index: Tensor, *_: Maybe) -> Result:
        """See train/methods/__init__.py; moves the bank's entries of this batch. Negatives are not
        used."""
        query = F.normalize(self.encoder(views[0]), dim=1)
        # a logit of 1 / T in bfloat16 would be 3 % off
        with torch.autocast(query.device.type, enabled=False):
            query = query.float()
            rows = torch.cat([index[:, None], self.noise(step, index)], 1)  # (B, 1 + m)
            logits = (self.bank[rows] @ query[:, :, None])[:, :, 0] / self.settings.temperature
            if step == 0:
                self._estimate_z(logits.detach())
            loss, accuracy = nce(logits, self.log_z, len(self.bank))
        self._remember(query.detach(), index)
        return loss, accuracy

    def noise(self, step: int, index: Tensor) -> Tensor:
        """(B, m) entries for this process's images: its rows of those drawn for the global
        batch."""
        size = world() * len(index), self.settings.negatives
        drawn = stream(NOISE, self.seed, 0, step).integers(len(self.bank), size=size)
        return local_part(torch.from_numpy(drawn)).to(index.device, non_blocking=True)

    @torch.no_grad()
    def _estimate_z(self, logits: Tensor) -> None:
        """Z is N times the mean of exp(logit) over the first global batch, and stays (the paper's
        equation 8)."""
        total = gather(logits.logsumexp((0, 1)).reshape(1)).logsumexp(0)
        self.log_z.copy_(total + math.log(len(self.bank) / (world() * logits.numel())))

    @torch.no_grad()
    def _remember(self, query: Tensor, index: Tensor) -> None:
        query, index = gather(query), gather(index)
        moved = torch.lerp(query, self.bank[index], self.settings.bank_momentum)
        self.bank[index] = F.normalize(moved, dim=1)
