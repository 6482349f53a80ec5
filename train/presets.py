"""Settings to start from, one function an experiment: its docstring says the command, the time and
the result."""

import dataclasses
from typing import Any

from data.cli import UsageError
from train.config import Config, flat
from train.methods import METHODS

# MoCo v1's and InstDisc's augmentations: strong hue, always; no blur
_V1_COLOURS = {"jitter": (0.4, 0.4, 0.4, 0.4), "jitter_p": 1.0, "blur_p": 0.0}
# the step schedule of both, and a head of one layer
_V1 = {
    "head": "linear",
    "temperature": 0.07,
    "schedule": "step",
    "milestones": (120, 160),
    **_V1_COLOURS,
}
# batches of thousands, as SimCLR and BYOL were published
_LARGE = {
    "batch": 4096,
    "head_norm": True,
    "crop": (0.08, 1.0),
    "optimizer": "lars",
    "warmup": 10.0,
    "schedule": "warmup_cosine",
    "splits": 1,
}
# what all presets for small images share, after MoCo's CIFAR notebook
_SMALL = {
    "network": "resnet18",
    "stem": "small",
    "size": 64,
    "batch": 512,
    "weight_decay": 5e-4,
    "blur_p": 0.0,
    "soften_sigma": 1.3,
}
# SimCLR and BYOL on small images
_SMALL_SGD = _LARGE | _SMALL | {"optimizer": "sgd", "lr": 0.24}


def moco_v1() -> dict:
    """MoCo v1 on ImageNet, ResNet-50, 200 epochs (He et al., CVPR 2020).

    python -m train /data/imagenet/train --masks caches/imagenet-rbd --preset moco_v1 \\
        --out runs/moco_v1-rbd

    The authors: 53 h on 8 V100; linear top-1 60.6 without DiLo (60.8 +- 0.2 over five runs in their
    repository). With DiLo 62.8 (RBD) and 65.0 (BASNet, which learned from human masks); both
    second-hand figures.
    """
    return _V1


def moco_v2() -> dict:
    """MoCo v2 on ImageNet, ResNet-50, 200 epochs (Chen et al., arXiv 2003.04297).

    python -m train /data/imagenet/train --masks caches/imagenet-rbd --preset moco_v2 \\
        --out runs/moco_v2-rbd

    The authors: 53 h on 8 V100; linear top-1 67.5 without DiLo. With DiLo and BASNet masks 69.2
    (second-hand figure).
    """
    return {}


def instdisc() -> dict:
    """InstDisc on ImageNet, ResNet-50, 200 epochs (Wu et al., CVPR 2018; settings of the authors'
    updated code).

    python -m train /data/imagenet/train --masks none --preset instdisc --out runs/instdisc

    Linear top-1 58.5 and kNN 46.8 in the authors' repository (VISSL: 52.7 to 55.0; mmselfsup 58.3),
    all without DiLo; no number with DiLo is known. Expect about 40 h on 8 V100: three quarters of
    MoCo's computation (our arithmetic).
    """
    return _V1 | {"method": "instdisc", "negatives": 4096, "bank_momentum": 0.5}


def simclr() -> dict:
    """SimCLR on ImageNet, ResNet-50, batch 4096, 200 epochs (Chen et al., ICML 2020).

    torchrun --nnodes 4 --nproc-per-node 8 ... -m train /data/imagenet/train --preset simclr \\
        --out runs/simclr

    is what the authors' batch needs (docs/pretraining.md; 128 images a GPU of 32 GB);
    `python -m train ... --preset simclr --batch 256 --lr 0.3` fits fewer: the rate is
    0.3 batch / 256. Linear top-1 at 200 epochs 66.9 (mmselfsup) and 66.6 (VISSL) with 4096, 62.7
    (mmselfsup) with 256, without DiLo; no number with DiLo is known. Hours: at the 2,970 images/s
    that FFCV-SSL reports on 8 A100, 24 h for 200 epochs (our arithmetic).
    """
    return _LARGE | {
        "method": "simclr",
        "temperature": 0.1,
        "jitter": (0.8, 0.8, 0.8, 0.2),
        "lr": 4.8,
        "weight_decay": 1e-6,
    }


def byol() -> dict:
    """BYOL on ImageNet, ResNet-50, batch 4096, 200 epochs (Grill et al., NeurIPS 2020; settings of
    the 1000-epoch run).

    torchrun --nnodes 4 --nproc-per-node 8 ... -m train /data/imagenet/train --preset byol \\
        --out runs/byol

    is what the authors' batch needs; `python -m train ... --preset byol --batch 512 --lr 0.4` fits
    fewer: the rate is 0.2 batch / 256. The paper's 1000 epochs are --epochs 1000 (74.3, quoted from
    memory). At 200 epochs mmselfsup has 71.8 with --lr 4.8 --weight-decay 1e-6 --momentum 0.99;
    what these settings give at 200 is not known to us, nor any number with DiLo. Hours: no
    published figure; a step costs a third more than SimCLR's (two target passes besides), so
    about 32 h on 8 A100 (our arithmetic).
    """
    return _LARGE | {
        "method": "byol",
        "dim": 256,
        "hidden": 4096,
        "momentum": 0.996,
        "jitter": (0.4, 0.4, 0.2, 0.1),
        "blur_p": 1.0,
        "second_blur_p": 0.1,
        "solarise_p": (0.0, 0.2),
        "lr": 3.2,
        "weight_decay": 1.5e-6,
    }


def moco_v1_small() -> dict:
    """MoCo v1's linear head on small images, ResNet-18: MoCo's CIFAR notebook itself.

    python -m train imagenette/train --masks caches/imagenette-rbd --preset moco_v1_small \\
        --out runs/small-v1

    On CIFAR-10 (--size 32 --crop 0.08 1) the notebook's kNN is 85.3 after 200 epochs; on Imagenette
    no number is known for these settings (800 epochs of lightly's MoCo: kNN 87.4). 129 minutes for
    200 epochs of CIFAR-10 at batch 128 on lightly's GPU; DiLo on small images: unknown.
    """
    return moco_v2_small() | {"head": "linear"}


def moco_v2_small() -> dict:
    """MoCo v2 on small images (Imagenette, CIFAR), ResNet-18: MoCo's CIFAR notebook with a head of
    two layers.

    python -m train imagenette/train --masks caches/imagenette-rbd --preset moco_v2_small \\
        --out runs/small

    For images of about 128 px: the mask's blur is scaled from ImageNet's 500 px width to theirs. No
    published number has just these settings: the notebook's linear head has kNN 85.3 on
    CIFAR-10 at 200 epochs,
    lightly's MoCo 87.4 on Imagenette at 800 (232 minutes on their GPU).
    """
    return _SMALL | {
        "lr": 0.06,
        "queue": 4096,
        "momentum": 0.99,
        "temperature": 0.1,
        "symmetric": True,
    }


def instdisc_small() -> dict:
    """InstDisc on small images, ResNet-18, with the memory bank of the paper and the schedule of
    the MoCo notebook.

    python -m train imagenette/train --masks caches/imagenette-rbd --preset instdisc_small \\
        --out runs/small-instdisc

    No published number has these settings, and the hours are not measured; half of moco_v2_small's
    computation or less.
    """
    return (
        _SMALL
        | _V1_COLOURS
        | {"method": "instdisc", "head": "linear", "temperature": 0.1, "lr": 0.06, "splits": 1}
    )


def simclr_small() -> dict:
    """SimCLR on small images, ResNet-18, by SGD: batches of 512 do not need LARS. Colour strength
    0.5, T 0.5, no blur.

    python -m train imagenette/train --masks caches/imagenette-rbd --preset simclr_small \\
        --out runs/small-simclr

    The paper's CIFAR settings (its appendix B.9) but for the optimiser. For orientation, lightly's
    SimCLR: kNN 84.8 on CIFAR-10 (200 epochs, batch 512; 98 minutes at batch 128), 88.9 on
    Imagenette (800); with DiLo unknown.
    """
    return _SMALL_SGD | {"method": "simclr", "temperature": 0.5}


def byol_small() -> dict:
    """BYOL on small images, ResNet-18, by SGD, with colours of SimCLR at strength 0.5.

    python -m train imagenette/train --masks caches/imagenette-rbd --preset byol_small \\
        --out runs/small-byol

    For orientation, lightly's BYOL: kNN 86.8 on CIFAR-10 (200 epochs, batch 512; 122 minutes at
    batch 128), 88.7 on Imagenette (800). Its settings are not quite these; with DiLo unknown.
    """
    return _SMALL_SGD | {
        "method": "byol",
        "dim": 256,
        "hidden": 1024,
        "momentum": 0.99,
        "solarise_p": (0.0, 0.2),
    }


# what the demo's presets share: a narrow ResNet-10 at 32 px, 644 steps
_DEMO = {
    "network": "resnet10",
    "stem": "small_stride2",
    "width": 16,
    "size": 32,
    "crop": (0.4, 1.0),
    "batch": 128,
    "dim": 64,
    "lr": 0.3,
    "weight_decay": 5e-4,
    "temperature": 0.2,
    "splits": 1,
    "head_norm": True,
    "jitter": (0.6, 0.6, 0.6, 0.2),
    "jitter_p": 0.8,
    "grey_p": 0.5,
    "blur_p": 0.0,
    "soften_sigma": 1.0,
    "epochs": 14,
    "warmup": 2.0,
    "workers": 0,
    "threads": 1,
}


def simclr_demo() -> dict:
    """SimCLR on the embedded data set, a narrow ResNet-10 at 32 px: what `make demo` runs, 90 s a
    run on one CPU core.

    python -m train runs/demo/images/train --masks runs/demo/masks-rbd --preset simclr_demo \\
        --out runs/demo/dilo-rbd

    SimCLR, since it learns from the first step on: MoCo v2 stays on a plateau for a part of the 644
    steps that differs from seed to seed, and that is more than DiLo's gain. Smaller than SimCLR's
    published settings in everything: batch, network, embedding, epochs.
    """
    return {"method": "simclr", **_DEMO}


def moco_v2_demo() -> dict:
    """MoCo v2 on the embedded data set, a narrow ResNet-10 at 32 px: 90 s a run on one CPU core.

    python -m train runs/demo/images/train --masks runs/demo/masks-rbd --preset moco_v2_demo \\
        --out runs/demo/moco-rbd

    Made for 644 steps, and so not MoCo v2's published settings: the key encoder follows fast (m
    0.5), the batch's other keys are negatives besides a short queue, the head has BatchNorm, and
    that is not split. Without the warm-up, pasted views hold some seeds at the collapsed start
    (loss ln 384 = 5.95) for half of the run.
    """
    return {**_DEMO, "queue": 256, "momentum": 0.5, "batch_negatives": True}


PRESETS = {
    preset.__name__: preset
    for preset in (
        moco_v1,
        moco_v2,
        instdisc,
        simclr,
        byol,
        moco_v1_small,
        moco_v2_small,
        instdisc_small,
        simclr_small,
        byol_small,
        simclr_demo,
        moco_v2_demo,
    )
}


OWN = {field.name: field.default_factory for field in dataclasses.fields(Config)}
# the nested settings: name -> class
PARTS = {name: part for name, part in OWN.items() if part is not dataclasses.MISSING}


def configure(preset: str = "moco_v2", **changes: Any) -> Config:
    """The configuration of a preset with changes, all by their flat names.

    A method's setting that the preset has and the chosen method has not is left out.

    Raises:
        UsageError: no such preset or method.
        TypeError: a change that is no setting of any method or part.
    """
    if preset not in PRESETS:
        raise UsageError(f"no preset {preset!r}; there are: {', '.join(sorted(PRESETS))}")
    values = {"method": "moco", **PRESETS[preset](), "preset": preset, **changes}
    if values["method"] not in METHODS:
        raise UsageError(f"no method {values['method']!r}; there are: {', '.join(METHODS)}")
    parts = PARTS | {"method": METHODS[values["method"]]}
    chosen = {name: part(**_of(part, values)) for name, part in parts.items()}
    known = set().union(OWN, *(_of(part, values) for part in (*PARTS.values(), *METHODS.values())))
    if unknown := values.keys() - known:
        raise TypeError(f"no such settings: {', '.join(sorted(unknown))}")
    return Config(**_of(Config, values) | chosen)


def change(config: Config, **changes: Any) -> Config:
    """A configuration with some settings changed, by their flat names."""
    return configure(**(flat(config) | changes))


def _of(part: type, values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values that a settings class has."""
    return {f.name: values[f.name] for f in dataclasses.fields(part) if f.name in values}
