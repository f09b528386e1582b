"""A detector and regressor whose outputs are a dataclass; one backbone, heads that share it, an FPN called twice."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Found:
    logits: Tensor
    boxes: Tensor
    keypoints: dict[str, Tensor]
    distance: Tensor


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.downsample = nn.Conv2d(inputs, width, 1, stride) if stride != 1 or inputs != width else None

    def forward(self, x):
        y = self.bn1(self.conv1(x))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y)


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1, self.layer2 = Bottleneck(3, 24, 2), Bottleneck(24, 48, 2)
        self.lateral1, self.lateral2 = nn.Conv2d(24, 32, 1), nn.Conv2d(48, 32, 1)
        self.tower = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU())
        self.cls, self.reg = nn.Conv2d(32, 6, 3, padding=1), nn.Conv2d(32, 4, 3, padding=1)
        self.scales = nn.Parameter(torch.tensor([1.0, 1.5]))
        self.keypoints, self.distance = nn.Linear(48, 10), nn.Linear(48, 1)

    def forward(self, image):
        c1 = self.layer1(image)
        c2 = self.layer2(c1)
        p2 = self.lateral2(c2)
        p1 = self.lateral1(c1) + F.interpolate(p2, size=c1.shape[-2:], mode="bilinear", align_corners=False)
        logits, boxes = [], []
        for i, level in enumerate((p1, p2)):
            t = self.tower(level)
            logits.append(self.cls(t).permute(0, 2, 3, 1).reshape(t.shape[0], -1, 6))
            boxes.append(F.softplus(self.reg(t) * self.scales[i]).permute(0, 2, 3, 1).reshape(t.shape[0], -1, 4))
        pooled = c2.mean((-2, -1))
        points = {"xy": self.keypoints(pooled).unflatten(1, (5, 2))}
        return Found(torch.cat(logits, 1), torch.cat(boxes, 1), points, self.distance(pooled).squeeze(-1))


def build():
    torch.manual_seed(0)
    return Detector()


def example_inputs():
    return {"image": torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))}
