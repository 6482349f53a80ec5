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

from evaluate.weights import Weights
from train.photometric import MEAN, STD

SIDES = (32, 64, 128, 256, 512)  # pixels: sides of the square anchors
RATIOS = (0.5, 1.0, 2.0)
LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
STRIDES = {"imagenet": 16, "small_stride2": 8, "small": 4}  # of layer3, by the first layer
STAGES = {f"layer{i + 1}": str(i) for i in range(4)}


class Trunk(nn.Sequential):
    """A ResNet up to layer3, in torchvision's names."""

    def __init__(self, network: nn.Module):
        super().__init__(OrderedDict((name, getattr(network, name)) for name in LAYERS))
        self.out_channels = _channels(self)[-1]


class Padding(GeneralizedRCNNTransform):
    """Images of several sizes to one batch, zeros to the right and below; they come resized and
    normalised."""

    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        return image

    def resize(
        self, image: torch.Tensor, target: dict | None = None
    ) -> tuple[torch.Tensor, dict | None]:
        return image, target


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
        torchvision's model, which takes images normalised and resized elsewhere (its transform only
        pads) and scores at most 100 detections an image.
    """
    network = weights.build(untrained)
    torch.manual_seed(seed)
    common = {"rpn_batch_size_per_image": 256, "box_batch_size_per_image": regions}
    if model == "c4":
        trunk = Trunk(network)
        last = _channels(network.layer4, trunk.out_channels)[-1]
        head = nn.Sequential(
            OrderedDict(
                layer4=network.layer4,
                norm=nn.BatchNorm2d(last),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
            )
        )
        made = FasterRCNN(
            trunk,
            rpn_anchor_generator=AnchorGenerator((SIDES,), (RATIOS,)),
            rpn_pre_nms_top_n_train=12000,
            rpn_post_nms_top_n_train=2000,
            rpn_pre_nms_top_n_test=6000,
            rpn_post_nms_top_n_test=1000,
            box_roi_pool=AlignedRegions(STRIDES[weights.stem]),
            box_head=head,
            box_predictor=FastRCNNPredictor(last, classes + 1),
            **common,
        )
    else:
        widths = _channels(
            nn.Sequential(*(getattr(network, name) for name in (*LAYERS, "layer4")))
        )[-4:]
        body = BackboneWithFPN(network, STAGES, widths, channels, norm_layer=nn.BatchNorm2d)
        anchors = AnchorGenerator(tuple((side,) for side in SIDES), (RATIOS,) * len(SIDES))
        common |= {
            "rpn_anchor_generator": anchors,
            "rpn_pre_nms_top_n_train": 2000,
            "rpn_pre_nms_top_n_test": 1000,
            "rpn_post_nms_top_n_train": 1000,
            "rpn_post_nms_top_n_test": 1000,
        }
        if model == "fpn":
            made = FasterRCNN(body, classes + 1, **common)
        else:
            head = MaskRCNNHeads(channels, (256,) * 4, 1, norm_layer=nn.BatchNorm2d)
            made = MaskRCNN(body, classes + 1, mask_head=head, **common)
    predictor = made.roi_heads.box_predictor
    for layer, deviation in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, 0, deviation)
        nn.init.zeros_(layer.bias)
    made.transform = Padding(800, 1333, MEAN, STD)
    return made.requires_grad_(True)


def pixels(image: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(h, w, 3) uint8 to (3, h, w) float32 on the device, normalised as in the pretraining."""
    scaled = image.to(device, non_blocking=True).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    return (scaled - mean) / std


def _channels(layers: nn.Module, inputs: int = 3) -> list[int]:
    """Channels after each child."""
    found, x = [], torch.zeros(1, inputs, 32, 32)
    training = layers.training
    layers.eval()
    with torch.no_grad():
        for child in layers.children():
            x = child(x)
            found.append(x.shape[1])
    layers.train(training)
    return found
