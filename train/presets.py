"""Settings to start from, one function an experiment: its docstring says the command, the time and the result."""

from __future__ import annotations


def moco_v2() -> dict:
    """MoCo v2 on ImageNet, ResNet-50, 200 epochs (Chen et al., arXiv 2003.04297).

    python -m train /data/imagenet/train --masks caches/imagenet-rbd --preset moco_v2 --out runs/moco_v2-rbd

    The authors: 53 h on 8 V100; linear top-1 67.5 without DiLo. With DiLo and BASNet masks 69.2 (second-hand figure).
    """
    return {}


def moco_v2_small() -> dict:
    """MoCo v2 on small images (Imagenette, CIFAR), ResNet-18: the recipe of MoCo's CIFAR notebook.

    python -m train imagenette/train --masks caches/imagenette-rbd --preset moco_v2_small --out runs/small

    For images of about 128 px: the mask's blur is scaled from ImageNet's 500 px width to theirs.
    """
    return {"network": "resnet18", "stem": "small", "size": 64, "batch": 512, "lr": 0.06, "weight_decay": 5e-4,
            "queue": 4096, "momentum": 0.99, "temperature": 0.1, "splits": 8, "blur_p": 0.0, "symmetric": True,
            "soften_sigma": 1.3}


def moco_v2_demo() -> dict:
    """MoCo v2 on the embedded data set, a narrow ResNet-10 at 32 px: what `make demo` runs, 90 s a run on one CPU core.

    python -m train runs/demo/images/train --masks runs/demo/masks-rbd --preset moco_v2_demo --out runs/demo/dilo-rbd

    Made for 644 steps, and so not MoCo v2's published settings: the key encoder follows fast (m 0.5), the batch's other
    keys are negatives besides a short queue, the head has BatchNorm, and that is not split. Without the warm-up, pasted
    views hold some seeds at the collapsed start (loss ln 384 = 5.95) for half of the run.
    """
    return {"network": "resnet10", "stem": "small_stride2", "width": 16, "size": 32, "crop": (0.4, 1.0), "batch": 128,
            "dim": 64, "lr": 0.3, "weight_decay": 5e-4, "queue": 256, "momentum": 0.5, "temperature": 0.2, "splits": 1,
            "batch_negatives": True, "head_norm": True, "jitter": (0.6, 0.6, 0.6, 0.2), "jitter_p": 0.8, "grey_p": 0.5,
            "blur_p": 0.0, "soften_sigma": 1.0, "epochs": 14, "warmup": 2.0, "workers": 0, "threads": 1}


PRESETS = {"moco_v2": moco_v2, "moco_v2_small": moco_v2_small, "moco_v2_demo": moco_v2_demo}
