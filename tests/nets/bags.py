"""A recommender: bags of words with offsets and without, several ids, and integer outputs beside scores (N,)."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.user = nn.Embedding(90, 16, padding_idx=0)
        self.bag, self.summed = nn.EmbeddingBag(120, 16), nn.EmbeddingBag(60, 16, mode="sum")
        self.deep = nn.Sequential(nn.Linear(52, 64), nn.ReLU(inplace=True), nn.Linear(64, 1))

    def forward(self, user, words, tags, dense):
        x = torch.cat([self.user(user), self.bag(words), self.summed(tags), dense], 1)
        score = self.deep(x).squeeze(1)
        return score, (score > 0).long(), dense.argmax(1)


def build():
    torch.manual_seed(0)
    return Net()


def example_inputs():
    g = torch.Generator().manual_seed(1)
    ids = [torch.randint(1, n, shape, generator=g) for n, shape in ((90, (1,)), (120, (1, 6)), (60, (1, 3)))]
    return (*ids, torch.randn(1, 4, generator=g))
