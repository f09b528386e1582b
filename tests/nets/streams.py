"""A recurrent net for streams: time comes first, and states come in and go out."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(20, 48, num_layers=2)
        self.gru = nn.GRU(48, 32, batch_first=False)
        self.fc = nn.Linear(32, 12)

    def forward(self, x, h, c):
        y, (h, c) = self.lstm(x, (h, c))
        z, g = self.gru(y)
        return self.fc(z), h, c, g


def build():
    torch.manual_seed(0)
    return Net().eval()


def example_inputs():
    g = torch.Generator().manual_seed(1)
    return (torch.randn(10, 1, 20, generator=g), torch.randn(2, 1, 48, generator=g), torch.randn(2, 1, 48, generator=g))
