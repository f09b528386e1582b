"""MobileNetV3: hard-swish, squeeze and excitation with hard sigmoids, depthwise convolutions."""

import torch
from torch import nn


def conv(inputs, outputs, kernel=1, stride=1, groups=1, act=nn.Hardswish):
    norm = nn.BatchNorm2d(outputs, eps=1e-3)
    nn.init.uniform_(norm.running_var, 0.5, 1.5)
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), norm]
    return nn.Sequential(*layers, *([act(inplace=True)] if act else []))


class SqueezeExcitation(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
        self.activation, self.scale_activation = nn.ReLU(), nn.Hardsigmoid()

    def forward(self, x):
        return self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x))))) * x


class Block(nn.Module):
    def __init__(self, inputs, hidden, outputs, kernel, stride, se, act):
        super().__init__()
        layers = [conv(inputs, hidden, act=act), conv(hidden, hidden, kernel, stride, hidden, act)]
        layers += [SqueezeExcitation(hidden)] if se else []
        self.block = nn.Sequential(*layers, conv(hidden, outputs, act=None))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        result = self.block(x)
        if self.residual:
            result += x
        return result


class MobileNetV3(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 16, 3, 2),
            Block(16, 32, 16, 3, 1, False, nn.ReLU),
            Block(16, 64, 24, 5, 2, True, nn.Hardswish),
            Block(24, 96, 24, 5, 1, True, nn.Hardswish),
            conv(24, 96),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(96, 128), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(128, 10))

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def build():
    torch.manual_seed(0)
    return MobileNetV3()


def example_inputs():
    return (torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)),)
