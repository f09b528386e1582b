"""What of a compressed net can learn: codes become codebooks that gradients reach, and every parameter has its rate."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import Factored
from ..layers.codebook import CodebookConv2d, CodebookEmbedding, Coded
from ..layers.nearest import nearest
from ..layers.packing import pack

# Rates of Adam, relative to the root mean square of what it moves: codebooks, scales and biases of coded nets; layers
# of factorized nets; layers inserted there.
_RATE, _LAYER_RATE, _INSERTED_RATE = 0.01, 0.003, 0.002
_LATENT_RATE = 0.03
_SCORES = 1 << 24  # of codewords, found at a time


def trainable(net: nn.Module, codes: bool = False) -> nn.Module:
    """A copy of `net` whose codebook layers are differentiable.

    Args:
        codes: which codeword a segment gets is learned, too.
    """
    net = copy.deepcopy(net).eval()
    coded = {name: m for name, m in net.named_modules(remove_duplicate=False) if isinstance(m, Coded)}
    looked_up = {id(module.codes) for module in coded.values() if isinstance(module, CodebookEmbedding)}
    twins: dict[int, TrainableCodes] = {}
    for name, module in coded.items():
        if id(module) not in twins:
            learned = codes and id(module.codes) not in looked_up
            made = (LearnedCodes if learned else TrainableCodes)(module)
            first = next((twins[id(m)] for m in coded.values() if m.codes is module.codes and id(m) in twins), made)
            made.share(first)
            twins[id(module)] = made
        net.set_submodule(name, twins[id(module)])
    return net


def free_parameters(net: nn.Module, whole: bool = False) -> Iterator[tuple[str, nn.Parameter, float]]:
    """What learns, and its rate: codebooks, scales, every bias and norm; where layers were factorized, or the `whole`
    net was pruned, all weights."""
    inserted = {
        f"{name}.{part}"
        for name, module in net.named_modules()
        if isinstance(module, Factored)
        for part, parameter in module.named_parameters()
        if parameter.dim() > 1 and not part.endswith((".words", ".latent"))
    }
    for name, parameter in net.named_parameters():
        if name.endswith(".latent"):
            yield name, parameter, _LATENT_RATE
        elif name in inserted:
            yield name, parameter, _INSERTED_RATE
        elif name.endswith(".words") or (parameter.dim() == 1 and not inserted):
            yield name, parameter, _RATE
        elif inserted or whole:
            yield name, parameter, _LAYER_RATE


class TrainableCodes(nn.Module):
    """A codebook layer that decodes, with fp32 codebooks that gradients reach."""

    def __init__(self, coded: Coded) -> None:
        super().__init__()
        self.kind, self.format, self.geometry = type(coded), coded.format, getattr(coded, "geometry", None)
        f = coded.format
        codes = coded.unpacked().long()  # (stages, blocks, lanes)
        groups = torch.arange(f.blocks) // -(-f.blocks // f.groups) + f.groups * torch.arange(f.stages)[:, None]
        self.index = (codes + f.k * groups[:, :, None]).transpose(1, 2).contiguous()  # (stages, lanes, blocks)
        self.words = nn.Parameter(coded.codebook.float().transpose(2, 3).reshape(-1, f.s))
        self.scale = None if coded.scale is None else nn.Parameter(coded.scale.clone())
        self.bias = None if coded.bias is None else nn.Parameter(coded.bias.detach().clone())

    def share(self, first: TrainableCodes) -> None:
        """Takes codes and codewords of a layer that has the same weight; they then learn together."""
        self.index, self.words, self.scale = first.index, first.words, first.scale

    def matrix(self) -> Tensor:
        """What the codes mean, without scales: (lanes, blocks·s)."""
        return _Decode.apply(self.words, self.index, None)

    def forward(self, x: Tensor) -> Tensor:
        f = self.format
        matrix = self.matrix()
        matrix = matrix[:, : f.columns] if f.axis == 0 else matrix[:, : f.rows].T
        if self.scale is not None:
            matrix = matrix * self.scale[:, None]
        if self.kind is CodebookEmbedding:
            return F.embedding(x, matrix)
        if self.kind is not CodebookConv2d:
            return F.linear(x, matrix, self.bias)
        g = self.geometry
        weight = matrix.reshape(f.rows, *g["kernel"], -1).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, self.bias, g["stride"], g["padding"], g["dilation"])

    def store_in(self, coded: Coded) -> None:
        f = self.format
        with torch.no_grad():
            coded.codebook.copy_(self.words.reshape(f.stages, f.groups, f.k, f.s).transpose(2, 3))
            for name in ("scale", "bias"):
                if getattr(self, name) is not None:
                    getattr(coded, name).copy_(getattr(self, name))


class LearnedCodes(TrainableCodes):
    """The same where codes learn: each segment has a latent weight that gradients move as if it were the decoded one
    (straight through: Bengio et al. 2013), and gets the codeword nearest to it."""

    def __init__(self, coded: Coded) -> None:
        super().__init__(coded)
        with torch.no_grad():
            self.latent = nn.Parameter(super().matrix())

    def matrix(self) -> Tensor:
        if torch.is_grad_enabled():  # what is only looked at has been assigned
            self.assign()
        return _Decode.apply(self.words, self.index.clone(), self.latent)  # which the next step changes in place

    def share(self, first: TrainableCodes) -> None:
        super().share(first)
        self.latent = first.latent

    @torch.no_grad()
    def assign(self) -> None:
        """The nearest codeword for every segment, stage by stage, given the other stages."""
        f = self.format
        groups = torch.arange(f.blocks) // -(-f.blocks // f.groups)
        words = self.words.detach().view(f.stages, f.groups, f.k, f.s)
        latent = self.latent.view(-1, f.blocks, f.s).transpose(0, 1)  # (blocks, lanes, s)
        parts = [F.embedding(stage, self.words).transpose(0, 1) for stage in self.index]
        step = max(1, _SCORES // max(1, latent.shape[1] * f.k))
        for i in range(f.stages):
            wanted = latent - sum(part for j, part in enumerate(parts) if j != i)
            for start in range(0, f.blocks, step):
                which = groups[start : start + step]
                codes = nearest(wanted[start : start + step], words[i, which])
                self.index[i, :, start : start + step] = (codes + f.k * (which + f.groups * i)[:, None]).T
            parts[i] = F.embedding(self.index[i], self.words).transpose(0, 1)

    def store_in(self, coded: Coded) -> None:
        self.assign()
        super().store_in(coded)
        f = self.format
        tile = (self.index % f.k).transpose(1, 2)
        with torch.no_grad():
            coded.codes.copy_(pack(tile.to(torch.uint8), f.bits, f.tile))


class _Decode(torch.autograd.Function):
    """words (all codewords, s), index (stages, lanes, blocks) → Σ_stages words[index], (lanes, blocks·s). The gradient
    of that is also the latent weights', if there are any."""

    @staticmethod
    def forward(ctx: Any, words: Tensor, index: Tensor, latent: Tensor | None) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = words.shape
        return sum(F.embedding(stage, words).flatten(1) for stage in index)  # type: ignore[return-value]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor | None]:
        (index,) = ctx.saved_tensors
        count, s = ctx.size
        columns = gradient.reshape(-1, s).T.contiguous()
        sums = [
            torch.stack([torch.bincount(stage.flatten(), column, count) for column in columns], 1) for stage in index
        ]
        mine = gradient if ctx.needs_input_grad[2] else None
        return sum(sums).to(gradient.dtype), None, mine  # type: ignore[union-attr]
