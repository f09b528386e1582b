"""One file, one runtime: how a network is exported for it and what its files hold. A runtime module has

- `SUFFIX`: of its model files,
- `version() -> str`,
- `export(net, example_inputs, path)`: writes the file,
- `constants(path) -> list[Constant]`: every constant tensor the written file holds,
- `signature(path, inputs, outputs) -> Signature`: what the file takes and gives, of a net that takes and gives these,
- `operators(path) -> set[str]`: the names of the operators that the file needs.
- `refuse(layer, arithmetic) -> str`: why it cannot multiply the layer so, empty if it can; the plan asks,
- `prefers_static(layer) -> bool`: whether it multiplies the layer faster with fixed scales,
- `stored(layer) -> list[Tensor]`: the forms in which the weights of a `Quantized` layer may lie in its files.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """A constant of an exported file: its dtype as the file names it (None in an opaque backend blob) and its bytes."""

    dtype: str | None
    data: bytes
