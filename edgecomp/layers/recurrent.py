"""The steps of an LSTM, a GRU or a plain RNN, apart from what a dense layer can do for all steps at once.

A recurrent layer is `xp = W_ih x + b_ih` over all steps, which is an ordinary dense layer, and then, step after step,
`W_hh h + b_hh` and the gates. The second part is a `Recurrence`. It calls its child `hh` as a module, so that the
weights are compressed, calibrated and trained like those of any dense layer. In an export it becomes one call of
`edgecomp::recurrence`, whatever the number of steps. The op takes `hh` as it is stored: fp32, codes, integers, or
several of these in a row. `targets/kernels/recurrence` computes it on a device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import BuildError
from .codebook import CodebookLinear
from .ops import decode
from .packing import unpack_signed
from .quantized import QuantizedLinear, rounded

Kind = Literal["lstm", "gru", "rnn_tanh", "rnn_relu"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}

_FACTORS = 4  # that the kernel takes
_FACTOR_SETTINGS = 14


class Recurrence(nn.Module):
    """One direction of one recurrent layer.

    Attributes:
        kind: which gates. Their order is torch's: i, f, g, o of an LSTM; r, z, n of a GRU.
        reverse: the last step comes first; outputs stay at their places.
        hh: hidden → gates · hidden, with torch's `bias_hh`: a GRU multiplies it with r.
    """

    def __init__(self, kind: Kind, hh: nn.Module, reverse: bool = False) -> None:
        super().__init__()
        self.kind, self.reverse, self.hh = kind, reverse, hh

    def forward(
        self, xp: Tensor, h0: Tensor | None = None, c0: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Runs all steps.

        Args:
            xp: (T, N, gates · hidden) fp32, what the inputs add to the gates.
            h0: (N, hidden), zeros if None. c0: the same for the cells of an LSTM, None for other kinds.

        Returns:
            out (T, N, hidden), the last h (N, hidden), the last c (N, hidden) or None.

        Raises:
            BuildError: in an export, if the op cannot take `hh`.
        """
        h = xp.new_zeros(xp.shape[1], xp.shape[2] // GATES[self.kind]) if h0 is None else h0
        c = (torch.zeros_like(h) if c0 is None else c0) if self.kind == "lstm" else None
        if torch.compiler.is_exporting():
            return self._exported(xp, h, c)
        out, c = _run(self.kind, self.reverse, self.hh, xp, h, c)
        return out, out[0 if self.reverse else -1], c

    def _exported(self, xp: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        parts = _parts(self.hh)
        settings, constants = [KINDS.index(self.kind), int(self.reverse), len(parts)], []
        for part in parts:
            stored, numbers = _described(part)
            constants += [tensor for tensor in (*stored, part.bias) if tensor is not None]
            settings += numbers
        both = torch.ops.edgecomp.recurrence(xp, h, c, constants, settings)
        out = both if c is None else both[:-1]
        return out, out[0 if self.reverse else -1], None if c is None else both[-1]

    def extra_repr(self) -> str:
        return f"{self.kind}{', reverse' if self.reverse else ''}"


def inside_recurrences(net: nn.Module) -> set[nn.Module]:
    """The modules below a `Recurrence`: its op holds them as in the checkpoint, other layers as the runtime wants."""
    return {part for module in net.modules() if isinstance(module, Recurrence) for part in module.hh.modules()}


def recurrence_around(net: nn.Module, layer: nn.Module) -> Recurrence | None:
    """The `Recurrence` that calls a layer of `net`, once for every step; None if none does."""
    recurrences = (module for module in net.modules() if isinstance(module, Recurrence))
    return next((module for module in recurrences if any(part is layer for part in module.hh.modules())), None)


def _run(
    kind: str, reverse: bool, hh: Callable[[Tensor], Tensor], xp: Tensor, h: Tensor, c: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """All hidden states, (T, N, hidden), and the last cells."""
    out: list[Tensor] = []
    for x in reversed(xp.unbind()) if reverse else xp.unbind():
        h, c = _step(kind, x, hh(h), h, c)
        out.append(h)
    return torch.stack(out[::-1] if reverse else out), c


def _step(kind: str, x: Tensor, gates: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The next h and c, from what x and h add to the gates."""
    if kind == "lstm":
        i, f, g, o = (x + gates).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()  # type: ignore[operator]
        return o.sigmoid() * c.tanh(), c
    if kind == "gru":
        (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), gates.chunk(3, -1)
        z = (xz + hz).sigmoid()
        n = (xn + (xr + hr).sigmoid() * hn).tanh()
        return (1 - z) * n + z * h, None
    return ((x + gates).tanh() if kind == "rnn_tanh" else (x + gates).relu()), None


def _parts(hh: nn.Module) -> list[nn.Module]:
    """The dense layers in a row that `hh` is."""
    parts = [part for child in hh for part in _parts(child)] if isinstance(hh, nn.Sequential) else [hh]
    if len(parts) > _FACTORS:
        raise BuildError(f"a recurrent layer's weights are {len(parts)} layers in a row, the op takes {_FACTORS}")
    return parts


def _described(part: nn.Module) -> tuple[list[Tensor | None], list[int]]:
    """What the op holds of a dense layer beside its bias, and its settings in the order of `recurrence.h`."""
    biased = int(part.bias is not None)  # type: ignore[union-attr]
    if isinstance(part, CodebookLinear):
        f, tables = part.format, part.effective_tables
        form = [f.axis, f.tile, f.stages, f.groups, f.s, f.k, int(f.half), tables.bits, tables.group]
        return [part.codes, part.codebook, part.scale], [0, f.rows, f.columns, *form, int(f.scaled), biased]
    if isinstance(part, QuantizedLinear):
        if part.static:
            raise BuildError(
                "a recurrent layer has no fixed scales for what it rounds", "Set them off: --set activations=dynamic."
            )
        return [part.codes, part.scale], [part.bits, *part.shape, *[0] * 9, 1, biased]
    if type(part) is nn.Linear:
        return [part.weight], [32, *part.weight.shape, *[0] * 9, 0, biased]
    raise BuildError(
        f"a recurrent layer's weights are {type(part).__name__}, which the op does not take",
        "Leave the layer out with --layers, or give it another method.",
    )


def _matrices(constants: list[Tensor], settings: list[int]) -> Callable[[Tensor], Tensor]:
    """What the factors in the arguments of the op do with h."""
    given = iter(constants)
    layers: list[tuple[int, Tensor, Tensor | None]] = []
    for factor in range(settings[2]):
        numbers = settings[3 + factor * _FACTOR_SETTINGS :][:_FACTOR_SETTINGS]
        bits, rows, columns, axis, tile, *_, scaled, biased = numbers
        stored, book = next(given), None if bits else next(given)
        scale = next(given) if scaled else None
        if book is not None:
            matrix = decode(stored.view(torch.uint8), book, scale, rows, columns, axis, tile)
        elif scale is not None:
            levels = unpack_signed(stored.reshape(-1).view(torch.uint8), bits, rows * columns)
            matrix = levels.reshape(rows, columns) * scale[:, None]
        else:
            matrix = stored
        layers.append((bits, matrix, next(given) if biased else None))

    def product(h: Tensor) -> Tensor:
        for bits, matrix, bias in layers:
            h = nn.functional.linear(rounded(h, (-1,)) if 0 < bits <= 8 else h, matrix, bias)
        return h

    return product


_ARGUMENTS = "Tensor xp, Tensor h0, Tensor? c0, Tensor[] constants, int[] settings"

_library = torch.library.Library("edgecomp", "FRAGMENT")
_library.define(f"recurrence({_ARGUMENTS}) -> Tensor")
_library.define(f"recurrence.out({_ARGUMENTS}, *, Tensor(a!) out) -> Tensor(a!)")


def _recurrence(xp: Tensor, h0: Tensor, c0: Tensor | None, constants: list[Tensor], settings: list[int]) -> Tensor:
    """All hidden states, and those of an LSTM's cells after the last step behind them: (T or T + 1, N, hidden)."""
    out, c = _run(KINDS[settings[0]], bool(settings[1]), _matrices(constants, settings), xp, h0, c0)
    return out if c is None else torch.cat([out, c[None]])


_library.impl("recurrence", _recurrence, "CompositeExplicitAutograd")


@torch.library.register_fake("edgecomp::recurrence")
def _fake_recurrence(xp: Tensor, h0: Tensor, c0: Tensor | None, constants: list[Tensor], settings: list[int]) -> Tensor:
    return xp.new_empty(xp.shape[0] + (c0 is not None), *h0.shape)
