"""Digests of values that results depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch


def of_tensors(tensors: Iterable[torch.Tensor | None]) -> str:
    """SHA-256 over dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            digest.update(b"none")
            continue
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
