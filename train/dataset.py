"""What a run is trained on: its images, their masks, and what is pasted behind them."""

import hashlib
from dataclasses import dataclass

from data.cache.reader import Cache
from data.cli import UsageError
from data.sources.images import Images, open_images
from train.backgrounds import Donors, make_donors
from train.config import Config
from train.masks import Masks, count_usable, make_masks


@dataclass(frozen=True)
class TrainingSet:
    """The images of a run.

    Attributes:
        masks: each image's mask, or None: the baseline.
        donors: backgrounds; None: grey.
        usable: how many images can be pasted, in words.
    """

    images: Images
    masks: Masks | None = None
    donors: Donors | None = None
    usable: str = ""

    def identity(self) -> dict[str, str]:
        """What must not change when the run is continued: JSON-able."""
        images = _describe(self.images)
        if self.images.altered:  # a pack that reduced them
            images += f", {self.images.altered}"
        identity = {"images": images, "masks": "none"}
        if self.masks:
            cache = self.masks.cache
            identity["masks"] = cache.description["identity_hash"]
            if cache.identity["estimator"] == "files":  # which does not say what the maps were
                identity["maps"] = self.masks.digest()
        if isinstance(self.donors, Donors) and not self.donors.apart:
            identity["textures"] = _describe(self.donors.images)
        return identity


def _describe(images: Images) -> str:
    digest = hashlib.blake2b(b"\n".join(images.paths.tolist()), digest_size=8).hexdigest()
    return f"{len(images)} images, list {digest}"


def open_training_set(config: Config) -> TrainingSet:
    """The configured images, masks and backgrounds.

    Raises:
        UsageError: no such images, masks or textures, fewer images than a batch, or masks of which
            none can be pasted.
    """
    images = open_images(config.images, config.listed)
    if config.exclude:
        images = images.without(config.exclude)
    if len(images) < config.optimiser.batch:
        raise UsageError(
            f"{config.images}: {len(images)} images are fewer than one --batch of "
            f"{config.optimiser.batch}"
        )
    if config.masks == "none":
        return TrainingSet(images)
    cache = Cache(config.masks)
    rows = cache.require(images.paths)
    cache.note_other_files(rows, images)
    masks = make_masks(config, cache, rows)
    usable = count_usable(masks, config.masks)
    donors = make_donors(config.paste, images, cache, rows)
    return TrainingSet(images, masks, donors, usable)
