"""Audio over one dimension, like HiFi-GAN: weight norms old and new, dilations, transposed convolutions."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import weight_norm
from torch.nn.utils.parametrizations import weight_norm as new_weight_norm


class ResBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        convs = (nn.Conv1d(channels, channels, 3, dilation=d, padding="same") for d in (1, 3))
        self.convs = nn.ModuleList(new_weight_norm(conv) for conv in convs)

    def forward(self, x):
        for conv in self.convs:
            x = x + conv(F.leaky_relu(x, 0.1))
        return x


class Vocoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_pre = weight_norm(nn.Conv1d(20, 32, 7, 1, padding=3))
        self.ups = nn.ModuleList(
            weight_norm(nn.ConvTranspose1d(c, c // 2, k, s, padding=(k - s) // 2))
            for c, k, s in ((32, 8, 4), (16, 4, 2))
        )
        self.resblocks = nn.ModuleList(ResBlock(c) for c in (16, 8))
        self.conv_post = weight_norm(nn.Conv1d(8, 1, 7, padding=3))

    def forward(self, mel):
        x = self.conv_pre(mel)
        for up, block in zip(self.ups, self.resblocks, strict=True):
            x = block(up(F.leaky_relu(x, 0.1)))
        return torch.tanh(self.conv_post(F.leaky_relu(x)))


def build():
    torch.manual_seed(0)
    return Vocoder()


def example_inputs():
    return (torch.randn(1, 20, 12, generator=torch.Generator().manual_seed(1)),)
