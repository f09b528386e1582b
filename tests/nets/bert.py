"""BERT: inputs by name (ids and a mask), three embeddings, an additive mask, a pooled output, and data."""

import math

import torch
from torch import nn
from torch.nn import functional as F

WORDS, LENGTH = 200, 16


class Layer(nn.Module):
    def __init__(self, dim=64, heads=4):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.dense = (nn.Linear(dim, dim) for _ in range(4))
        self.intermediate, self.output = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)

    def split(self, x):
        return x.view(*x.size()[:-1], self.heads, -1).permute(0, 2, 1, 3)

    def forward(self, x, mask):
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.size(-1)) + mask
        context = torch.matmul(F.softmax(scores, -1), v).permute(0, 2, 1, 3).contiguous()
        x = self.norm1(self.dense(context.view(*context.size()[:-2], -1)) + x)
        return self.norm2(self.output(F.gelu(self.intermediate(x))) + x)


class Bert(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.word_embeddings = nn.Embedding(WORDS, dim, padding_idx=0)
        self.position_embeddings, self.token_type_embeddings = nn.Embedding(32, dim), nn.Embedding(2, dim)
        self.register_buffer("position_ids", torch.arange(32).expand((1, -1)), persistent=False)
        self.norm, self.layer = nn.LayerNorm(dim, eps=1e-12), nn.ModuleList(Layer(dim) for _ in range(1))
        self.pooler, self.classifier = nn.Linear(dim, dim), nn.Linear(dim, 3)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        x = self.norm(x + self.position_embeddings(self.position_ids[:, : input_ids.shape[1]]))
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(torch.float32).min
        for layer in self.layer:
            x = layer(x, mask)
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


def build():
    torch.manual_seed(0)
    return Bert()


def samples(count, seed):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, WORDS, (count, LENGTH), generator=g)
    mask = (torch.arange(LENGTH) < torch.randint(4, LENGTH + 1, (count, 1), generator=g)).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def example_inputs():
    return samples(1, 0)


def data():
    return {
        split: (samples(24, i), torch.randint(0, 3, (24,), generator=torch.Generator().manual_seed(9 + i)))
        for i, split in enumerate(("train", "calibration", "test"), 1)
    }


metric = "accuracy"
