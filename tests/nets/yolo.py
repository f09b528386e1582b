"""YOLO-like: C2f blocks that split and concatenate, SPPF, nearest upsampling, one head over three levels."""

import torch
from torch import nn
from torch.nn import functional as F


class Conv(nn.Module):
    def __init__(self, inputs, outputs, k=1, s=1):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inputs, outputs, k, s, k // 2, bias=False), nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = nn.SiLU(inplace=True)
        nn.init.uniform_(self.bn.running_var, 0.5, 1.5)

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.cv1, self.cv2 = Conv(c, c, 3), Conv(c, c, 3)

    def forward(self, x):
        return x + self.cv2(self.cv1(x))


class C2f(nn.Module):
    def __init__(self, inputs, outputs, n=1):
        super().__init__()
        self.c = outputs // 2
        self.cv1, self.cv2 = Conv(inputs, 2 * self.c), Conv((2 + n) * self.c, outputs)
        self.m = nn.ModuleList(Bottleneck(self.c) for _ in range(n))

    def forward(self, x):
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.cv1, self.cv2, self.m = Conv(c, c // 2), Conv(c * 2, c), nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        y = [self.cv1(x)]
        for _ in range(3):
            y.append(self.m(y[-1]))
        return self.cv2(torch.cat(y, 1))


class Detect(nn.Module):
    def __init__(self, c, classes=5, bins=8):
        super().__init__()
        self.bins = bins
        self.box = nn.Sequential(Conv(c, 16, 3), nn.Conv2d(16, 4 * bins, 1))
        self.cls = nn.Sequential(Conv(c, 16, 3), nn.Conv2d(16, classes, 1))
        self.register_buffer("project", torch.arange(bins, dtype=torch.float32))

    def forward(self, levels):
        boxes, scores, strides = [], [], []
        for i, x in enumerate(levels):
            b, _, h, w = x.shape
            box = self.box(x).view(b, 4, self.bins, h * w).softmax(2)
            boxes.append(torch.einsum("bcnp,n->bcp", box, self.project))
            scores.append(self.cls(x).flatten(2).sigmoid())
            strides.append(torch.full((h * w,), 8.0 * 2**i))
        return torch.cat(boxes, 2) * torch.cat(strides), torch.cat(scores, 2)


class Yolo(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.down1 = Conv(3, 16, 3, 2), Conv(16, 32, 3, 2)
        self.c1, self.down2, self.c2 = C2f(32, 32), Conv(32, 32, 3, 2), C2f(32, 32, 2)
        self.sppf, self.top = SPPF(32), C2f(64, 32)
        self.down3, self.head = Conv(32, 32, 3, 2), Detect(32)

    def forward(self, x):
        p2 = self.c1(self.down1(self.stem(x)))
        p3 = self.sppf(self.c2(self.down2(p2)))
        p4 = self.down3(p3)
        up = F.interpolate(p3, scale_factor=2, mode="nearest")
        boxes, scores = self.head([self.top(torch.cat([up, p2], 1)), p3, p4])
        return {"boxes": boxes, "scores": scores, "levels": (p3, p4)}


def build():
    torch.manual_seed(0)
    return Yolo()


def example_inputs():
    return (torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)),)
