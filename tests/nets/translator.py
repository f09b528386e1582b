"""torch's own Transformer, encoder and decoder, with a causal mask and one that hides padding."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, dim=32):
        super().__init__()
        self.source, self.target = nn.Embedding(90, dim), nn.Embedding(70, dim)
        self.transformer = nn.Transformer(dim, 4, 1, 1, 64, batch_first=True)
        self.generator = nn.Linear(dim, 70)

    def forward(self, source, target, padding):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        y = self.transformer(
            self.source(source),
            self.target(target),
            tgt_mask=mask,
            tgt_is_causal=True,  # else torch looks at the mask's values
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return self.generator(y)


def build():
    torch.manual_seed(0)
    return Net()


def example_inputs():
    g = torch.Generator().manual_seed(1)
    source, target = (torch.randint(0, n, (1, length), generator=g) for n, length in ((90, 9), (70, 6)))
    return {"source": source, "target": target, "padding": torch.arange(9)[None] > 6}
