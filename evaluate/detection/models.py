"""Detectors around a pretrained ResNet, from torchvision's parts; every weight is trained.

`c4` is Faster R-CNN R50-C4 (Ren et al. 2015, as detectron2 builds it) with MoCo's extra norm after
layer4: conv1 to layer3 see the image, layer4 each region. `fpn` and `mask` are Faster and Mask
R-CNN on a feature pyramid (Lin et al. 2017, He et al. 2017), with norms in the pyramid and in the
mask head, as MoCo's paper has them for new layers.

torchvision's own `weights_backbone=` is not used: it freezes BatchNorm and the first stages, which
suits supervised features alone.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, roi_align

from train.photometric import MEAN, STD
from train.weights import Weights

TRUNK = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
STAGES = ("layer1", "layer2", "layer3", "layer4")
STRIDES = {"imagenet": 16, "small_stride2": 8, "small": 4}  # of layer3, by the first layer


class Padding(GeneralizedRCNNTransform):
    """Images of several sizes to one batch, normalised, zeros to the right and below. They come
    resized, and detections stay in their pixels, with masks of regions."""

    def resize(
        self, image: torch.Tensor, target: dict | None = None
    ) -> tuple[torch.Tensor, dict | None]:
        return image, target

    def postprocess(self, result: list[dict], image_shapes: list, sizes: list) -> list[dict]:
        return result


class AlignedRegions(MultiScaleRoIAlign):
    """14x14 features of each region from one map, aligned to half pixels and sampled once a bin, as
    detectron2's."""

    def __init__(self, stride: int, size: int = 14):
        super().__init__(["0"], size, 0)
        self.stride = stride

    def forward(self, x: dict, boxes: list[torch.Tensor], image_shapes: list) -> torch.Tensor:
        """(R, C, 14, 14) of {"0": (B, C, h, w)} and B lists of (r, 4) boxes."""
        return roi_align(x["0"], boxes, self.output_size, 1 / self.stride, 0, aligned=True)


def build(
    weights: Weights,
    model: str,
    classes: int,
    seed: int = 0,
    untrained: bool = False,
    regions: int = 512,
    channels: int = 256,
) -> FasterRCNN:
    """A detector whose backbone has the weights; new layers are drawn from the seed.

    Args:
        model: "c4", "fpn" or "mask".
        classes: without the background.
        untrained: the backbone with its random first weights.
        regions: region proposals that the heads learn from in an image.
        channels: of the pyramid.

    Returns:
        torchvision's model, which takes (3, h, w) images of 0..1 that are resized, and gives at
        most 100 detections an image, in their pixels.
    """
    network = weights.build(untrained)
    torch.manual_seed(seed)
    if model == "c4":
        detector = _c4(network, STRIDES[weights.stem], classes + 1, regions)
    else:
        detector = _pyramid(network, model == "mask", classes + 1, channels, regions)
    predictor = detector.roi_heads.box_predictor
    for layer, deviation in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, 0, deviation)
        nn.init.zeros_(layer.bias)
    detector.transform = Padding(800, 1333, MEAN, STD)
    return detector.requires_grad_(True)


def _c4(network: nn.Module, stride: int, labels: int, regions: int) -> FasterRCNN:
    trunk = nn.Sequential(OrderedDict((name, getattr(network, name)) for name in TRUNK))
    trunk.out_channels = _width(network.layer3)
    last = _width(network.layer4)
    head = OrderedDict(
        layer4=network.layer4,
        norm=nn.BatchNorm2d(last),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )
    return FasterRCNN(
        trunk,
        rpn_anchor_generator=AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
        rpn_pre_nms_top_n_train=12000,
        rpn_post_nms_top_n_train=2000,
        rpn_pre_nms_top_n_test=6000,
        rpn_post_nms_top_n_test=1000,
        box_roi_pool=AlignedRegions(stride),
        box_head=nn.Sequential(head),
        box_predictor=FastRCNNPredictor(last, labels),
        box_batch_size_per_image=regions,
    )


def _pyramid(
    network: nn.Module, masks: bool, labels: int, channels: int, regions: int
) -> FasterRCNN:
    stages = {name: str(i) for i, name in enumerate(STAGES)}
    widths = [_width(getattr(network, name)) for name in STAGES]
    body = BackboneWithFPN(network, stages, widths, channels, norm_layer=nn.BatchNorm2d)
    head = {}
    if masks:
        head["mask_head"] = MaskRCNNHeads(channels, (256,) * 4, 1, norm_layer=nn.BatchNorm2d)
    return (MaskRCNN if masks else FasterRCNN)(
        body,
        labels,
        rpn_post_nms_top_n_train=1000,
        box_batch_size_per_image=regions,
        **head,
    )


def _width(layer: nn.Module) -> int:
    """Channels that a stage of a ResNet gives."""
    return [m for m in layer.modules() if isinstance(m, nn.BatchNorm2d)][-1].num_features
