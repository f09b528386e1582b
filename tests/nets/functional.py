"""Weights that are read instead of called, tied to an embedding, spectrally normalised, multiplied from the left."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm
from torch.nn.utils.parametrizations import spectral_norm as new_spectral_norm


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(80, 32)
        self.w, self.b = nn.Parameter(torch.randn(48, 32) * 0.2), nn.Parameter(torch.randn(48))
        self.old, self.new = spectral_norm(nn.Linear(48, 40)), new_spectral_norm(nn.Linear(40, 32))
        self.mix = nn.Parameter(torch.randn(10, 10) * 0.3)  # over the tokens
        self.bilinear = nn.Bilinear(32, 32, 6)
        self.register_buffer("scale", torch.linspace(0.5, 2, 32))

    def forward(self, ids):
        x = self.emb(ids)
        h = F.gelu(F.linear(x, weight=self.w, bias=self.b))
        h = self.mix @ self.new(torch.tanh(self.old(h)))
        h = h * self.scale
        return h @ self.emb.weight.T, self.bilinear(x[:, 0], h[:, -1])


def build():
    torch.manual_seed(0)
    return Net()


def example_inputs():
    return (torch.randint(0, 80, (1, 10), generator=torch.Generator().manual_seed(1)),)
