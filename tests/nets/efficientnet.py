"""Like timm's EfficientNet: norms that are classes with an activation, convolutions that pad themselves to "same"."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class BatchNormAct2d(nn.BatchNorm2d):
    def __init__(self, channels, act=True):
        super().__init__(channels, eps=1e-3)
        self.act = nn.SiLU(inplace=True) if act else nn.Identity()
        nn.init.uniform_(self.running_var, 0.5, 1.5)
        nn.init.normal_(self.running_mean, std=0.1)

    def forward(self, x):
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps)
        return self.act(x)


class Conv2dSame(nn.Conv2d):
    def forward(self, x):
        pads = []
        for size, k, s in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((math.ceil(size / s) - 1) * s + k - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class SqueezeExcite(nn.Module):
    def __init__(self, channels, reduced):
        super().__init__()
        self.conv_reduce, self.conv_expand = nn.Conv2d(channels, reduced, 1), nn.Conv2d(reduced, channels, 1)

    def forward(self, x):
        y = x.mean((2, 3), keepdim=True)
        return x * self.conv_expand(F.silu(self.conv_reduce(y), inplace=True)).sigmoid()


class InvertedResidual(nn.Module):
    def __init__(self, channels, out, kernel, stride):
        super().__init__()
        hidden = 4 * channels
        self.conv_pw, self.bn1 = nn.Conv2d(channels, hidden, 1, bias=False), BatchNormAct2d(hidden)
        self.conv_dw = Conv2dSame(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self.bn2, self.se = BatchNormAct2d(hidden), SqueezeExcite(hidden, max(channels // 4, 4))
        self.conv_pwl, self.bn3 = nn.Conv2d(hidden, out, 1, bias=False), BatchNormAct2d(out, act=False)
        self.skip = stride == 1 and channels == out

    def forward(self, x):
        y = self.bn3(self.conv_pwl(self.se(self.bn2(self.conv_dw(self.bn1(self.conv_pw(x)))))))
        return x + y if self.skip else y


class EfficientNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_stem, self.bn1 = Conv2dSame(3, 16, 3, 2, bias=False), BatchNormAct2d(16)
        self.blocks = nn.Sequential(
            nn.Sequential(InvertedResidual(16, 24, 3, 2)), nn.Sequential(InvertedResidual(24, 24, 5, 1))
        )
        self.conv_head, self.bn2 = nn.Conv2d(24, 96, 1, bias=False), BatchNormAct2d(96)
        self.classifier = nn.Linear(96, 10)

    def forward(self, x):
        x = self.bn2(self.conv_head(self.blocks(self.bn1(self.conv_stem(x)))))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


def build():
    torch.manual_seed(0)
    return EfficientNet()


def example_inputs():
    return (torch.randn(1, 3, 33, 32, generator=torch.Generator().manual_seed(1)),)
