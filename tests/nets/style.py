"""Style transfer: instance norms, a batch norm with the statistics of the batch, nearest resizing, shared blocks."""

import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 24, 3, padding=1), nn.InstanceNorm2d(24, affine=True)
        self.block = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1, padding_mode="reflect"), nn.LeakyReLU(0.2))
        self.batch = nn.BatchNorm2d(24, track_running_stats=False)
        self.out = nn.Conv2d(24, 3, 3, padding=2, dilation=2)

    def forward(self, x):
        y = F.relu6(self.norm(self.a(x)))
        y = F.max_pool2d(y, 2)
        y = self.block(self.block(y)) + y
        return torch.sigmoid(self.out(F.interpolate(self.batch(y), scale_factor=2)))


def build():
    torch.manual_seed(0)
    return Net()


def example_inputs():
    return (torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)),)
