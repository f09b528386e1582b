"""A tagger of words: two layers of bidirectional LSTM, a GRU, a score for every word."""

import torch
from torch import nn


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(150, 32, padding_idx=0)
        self.lstm = nn.LSTM(32, 24, num_layers=2, bidirectional=True, batch_first=True, dropout=0.3)
        self.gru = nn.GRU(48, 32)
        self.tags = nn.Linear(32, 9)

    def forward(self, words):
        h, (last, _) = self.lstm(self.embed(words))
        g, _ = self.gru(h.transpose(0, 1))
        return self.tags(g.transpose(0, 1)), last.transpose(0, 1).flatten(1)


def build():
    torch.manual_seed(0)
    return Tagger()


def example_inputs():
    return (torch.randint(1, 150, (1, 20), generator=torch.Generator().manual_seed(1)),)
