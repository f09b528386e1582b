"""The ledger of an exported file: what every layer takes, and the container the rest."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor, nn

from ..errors import BuildError
from ..records import Compressed, LayerReport, Model, Plan
from .builtin import Builtin
from .codebook import CodebookEmbedding, Coded
from .matrix import parameter_bytes


def ledger(plan: Plan, model: Model, compressed: Compressed, path: Path, original: Path) -> tuple[LayerReport, ...]:
    lines = []
    for entry in plan.entries:
        names = [names[0] for names in entry.units]
        made = nn.ModuleList([compressed.net.get_submodule(name) for name in names])  # counts what they share once
        size = parameter_bytes(made if entry.method else made[0], recurse=entry.method is not None)
        originals = [getattr(model.net.get_submodule(name), "weight", None) for name in names]
        weights = sum(w.numel() if isinstance(w, Tensor) else entry.original_bytes // 4 for w in originals)
        lines.append(
            LayerReport(
                name=", ".join(entry.layers) or "(model)",
                kind=entry.kind,
                method="+".join(filter(None, [entry.pruned, entry.method])) or None,
                settings=entry.settings,
                weights=weights,
                original_bytes=entry.original_bytes,
                bytes=size,
                bits_per_weight=8 * size / max(1, weights),
                relative_error=_mean([compressed.weight_errors[n] for n in names if n in compressed.weight_errors]),
                output_error=_mean([compressed.output_errors[n] for n in names if n in compressed.output_errors]),
                tables=_tables(made),
                reason="; ".join(dict.fromkeys(filter(None, [entry.reason, *_remarks(made)]))),
            )
        )
    container = path.stat().st_size - sum(line.bytes for line in lines)
    if container < 0:
        raise BuildError(f"{path} is {-container} bytes smaller than the tensors it should hold")
    lines.append(
        LayerReport(
            name="container",
            kind="container",
            method=None,
            weights=0,
            original_bytes=original.stat().st_size - sum(line.original_bytes for line in lines),
            bytes=container,
            bits_per_weight=0,
            relative_error=None,
            reason="graph, names and alignment of the file itself",
        )
    )
    return tuple(lines)


def _tables(made: nn.Module) -> str:
    coded = [part for part in made.modules() if isinstance(part, Coded) and not isinstance(part, CodebookEmbedding)]
    return "; ".join(dict.fromkeys(part.effective_tables.text for part in coded))


def _remarks(made: nn.Module) -> list[str]:
    """What became of codebook layers in a file without custom ops."""
    return [layer.remark for layer in made.modules() if isinstance(layer, Builtin)]


def _mean(errors: list[float]) -> float | None:
    """The root mean square of the errors of several layers; None for none."""
    return math.sqrt(sum(error**2 for error in errors) / len(errors)) if errors else None
