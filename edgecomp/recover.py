"""Stage 4, recover: the compressed checkpoint becomes `model.safetensors`."""

from __future__ import annotations

import shutil

from . import progress
from .files import atomic_file
from .records import Compressed
from .workspace import Workspace


def recover(compressed: Compressed, work: Workspace) -> Compressed:
    """Publishes the checkpoint."""
    path = work.path("model.safetensors")
    with progress.stage("recover", "nothing to train"), atomic_file(path) as partial:
        shutil.copyfile(compressed.checkpoint, partial)
    return compressed
