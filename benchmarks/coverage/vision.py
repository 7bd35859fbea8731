"""The families of ``torchvision``: classification, segmentation, detection, optical flow and video; random weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.coverage.cases import Case

__all__ = ["LIBRARY", "cases"]

LIBRARY = "torchvision"

CLASSIFICATION = {
    "alexnet": 64,
    "vgg11": 32,
    "vgg11_bn": 32,
    "resnet18": 32,
    "resnet50": 32,
    "resnext50_32x4d": 32,
    "wide_resnet50_2": 32,
    "densenet121": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "squeezenet1_1": 32,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "shufflenet_v2_x0_5": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 32,
    "regnet_x_400mf": 32,
    "regnet_y_400mf": 32,
    "convnext_tiny": 32,
    "vit_b_32": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "maxvit_t": 64,
}
"""Families by the side of their images."""

SEGMENTATION = ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
DETECTION = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fcos_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
    "ssd300_vgg16",
    "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
)
VIDEO = {"r3d_18": 4, "mc3_18": 4, "r2plus1d_18": 4, "s3d": 16, "mvit_v1_b": 16, "swin3d_t": 4}
"""Families by the number of their frames."""


def _classifier(name: str, side: int) -> tuple[nn.Module, Any]:
    from torchvision import models

    torch.manual_seed(0)
    options: dict[str, Any] = {"weights": None, "num_classes": 10}
    if name in ("googlenet", "inception_v3"):
        options |= {"init_weights": False, "aux_logits": False}
    if name == "vit_b_32":
        options["image_size"] = side
    if name == "maxvit_t":
        options = {
            "input_size": (side, side),
            "stem_channels": 8,
            "block_channels": [8, 16],
            "block_layers": [1, 1],
            "head_dim": 4,
            "stochastic_depth_prob": 0.0,
            "partition_size": 4,
        }
        return models.maxvit.MaxVit(**options).eval(), torch.randn(1, 3, side, side)
    if name == "swin_t":
        model = models.swin_transformer.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10)
        return model.eval(), torch.randn(1, 3, side, side)
    if name == "swin_v2_t":
        block = models.swin_transformer.SwinTransformerBlockV2
        merging = models.swin_transformer.PatchMergingV2
        model = models.swin_transformer.SwinTransformer(
            [4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10, block=block, downsample_layer=merging
        )
        return model.eval(), torch.randn(1, 3, side, side)
    model = models.get_model(name, **options)
    if name.startswith(("alexnet", "vgg")):
        features = next(layer.in_features for layer in model.classifier if isinstance(layer, nn.Linear))
        model.classifier = nn.Sequential(
            nn.Linear(features, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )
    return model.eval(), torch.randn(1, 3, side, side)


def _segmenter(name: str) -> tuple[nn.Module, Any]:
    from torchvision import models

    torch.manual_seed(0)
    model = models.get_model(name, weights=None, weights_backbone=None, num_classes=5)
    return model.eval(), torch.randn(1, 3, 64, 64)


def _detector(name: str) -> tuple[nn.Module, Any]:
    from torchvision import models

    torch.manual_seed(0)
    model = models.get_model(name, weights=None, weights_backbone=None, num_classes=5)
    if name == "ssd300_vgg16":  # its last feature maps need the full side
        return model.eval(), ([torch.rand(3, 300, 300)],)
    for side in ("min_size", "max_size", "fixed_size"):
        if getattr(model.transform, side, None) is not None:
            setattr(model.transform, side, {"min_size": (64,), "max_size": 64, "fixed_size": (64, 64)}[side])
    return model.eval(), ([torch.rand(3, 64, 64)],)


def _video(name: str, frames: int) -> tuple[nn.Module, Any]:
    from torchvision import models

    torch.manual_seed(0)
    clip = torch.randn(1, 3, frames, 32, 32)
    if name == "swin3d_t":
        transformer = models.video.swin_transformer
        model = transformer.SwinTransformer3d([2, 4, 4], 16, [2, 2], [2, 4], [2, 4, 4], num_classes=10)
        return model.eval(), clip
    if name == "mvit_v1_b":
        setting = models.video.mvit.MSBlockConfig
        common = {"kernel_q": [3, 3, 3], "kernel_kv": [3, 3, 3], "stride_q": [1, 1, 1]}
        blocks = [
            setting(num_heads=1, input_channels=8, output_channels=16, stride_kv=[1, 2, 2], **common),
            setting(num_heads=2, input_channels=16, output_channels=16, stride_kv=[1, 1, 1], **common),
        ]
        model = models.video.MViT((32, 32), frames, blocks, False, True, False, False, num_classes=10)
        return model.eval(), clip
    if name == "s3d":
        return models.get_model(name, weights=None, num_classes=10).eval(), torch.randn(1, 3, frames, 224, 224)
    return models.get_model(name, weights=None, num_classes=10).eval(), clip


def _flow() -> tuple[nn.Module, Any]:
    from torchvision import models

    torch.manual_seed(0)
    model = models.optical_flow.raft_small(weights=None).eval()
    return model, {"image1": torch.randn(1, 3, 128, 128), "image2": torch.randn(1, 3, 128, 128), "num_flow_updates": 2}


def cases() -> dict[str, Case]:
    """All families by the name of their smallest member."""
    found = {
        name: Case(name, "classification", partial(_classifier, name, side)) for name, side in CLASSIFICATION.items()
    }
    found |= {name: Case(name, "segmentation", partial(_segmenter, name)) for name in SEGMENTATION}
    found |= {name: Case(name, "detection", partial(_detector, name)) for name in DETECTION}
    found |= {name: Case(name, "video", partial(_video, name, frames)) for name, frames in VIDEO.items()}
    found["raft_small"] = Case("raft_small", "optical flow", _flow)
    return found
