"""A loop over cells of a GRU and of an LSTM, as policies of robots have it."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.GRUCell(24, 40)
        self.c2 = nn.LSTMCell(40, 40)
        self.out = nn.Linear(40, 5)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 40)
        h2 = torch.zeros(x.shape[0], 40)
        c2 = torch.zeros_like(h2)
        ys = []
        for t in range(x.shape[1]):
            h = self.c1(x[:, t], h)
            h2, c2 = self.c2(h, (h2, c2))
            ys.append(self.out(h2))
        return torch.stack(ys, 1)


def build():
    torch.manual_seed(0)
    return Net().eval()


def example_inputs():
    return (torch.randn(1, 8, 24, generator=torch.Generator().manual_seed(1)),)
