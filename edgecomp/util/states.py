"""What an interrupted run goes on from: named tensors and texts in a .safetensors, with a digest of them in it."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .cache import key_of
from .files import atomic_file

_DIGEST = "sha256"


def save_state(path: Path, tensors: dict[str, Tensor], texts: dict[str, str] | None = None) -> None:
    """Writes the file in one step.

    Raises:
        BuildError: it cannot be written.
    """
    texts, tensors = texts or {}, {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as partial:
        save_file(tensors, partial, {**texts, _DIGEST: key_of(tensors, texts)})


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors and texts; None if there is no file, or it is not as it was written."""
    try:
        with safe_open(path, "pt") as file:
            texts, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError):
        return None
    digest = texts.pop(_DIGEST, None)
    return (tensors, texts) if digest == key_of(tensors, texts) else None
