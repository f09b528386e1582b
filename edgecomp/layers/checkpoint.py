"""The compressed checkpoint: `model.safetensors` holds the tensors, and the shape of every replaced layer."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .. import layers
from ..errors import BuildError
from ..util.files import atomic_file
from .channels import channels_of, set_channels

# What reading a damaged file raises, be it in safetensors, in torch, or on the way through what the metadata name.
_DAMAGED = (SafetensorError, OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError)
_DAMAGED += (MemoryError,)  # of sizes that make no sense


def save(net: nn.Module, path: Path) -> None:
    """Writes the tensors of `net` (shared ones once), the structure of its new layers, and which are the same."""
    structure: dict[str, dict[str, Any]] = {}
    first: dict[int, str] = {}
    twins: dict[str, str] = {}
    for name, module in net.named_modules(remove_duplicate=False):
        if first.setdefault(id(module), name) != name:
            twins[name] = first[id(module)]
        elif type(module).__name__ in layers.__all__:
            structure[name] = {"class": type(module).__name__, **module.structure()}
    tensors: dict[str, torch.Tensor] = {}
    seen: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in net.state_dict().items():
        if tensor.data_ptr() in seen and tensor.numel():
            aliases[name] = seen[tensor.data_ptr()]
        else:
            seen[tensor.data_ptr()] = name
            tensors[name] = tensor.contiguous()
    channels = {name: widths for name, module in net.named_modules() if (widths := channels_of(module))}
    notes = {"layers": structure, "twins": twins, "aliases": aliases, "channels": channels}
    metadata = {"format": "edgecomp.checkpoint/1"} | {key: json.dumps(value) for key, value in notes.items()}
    with atomic_file(path) as partial:
        save_file(tensors, partial, metadata)
        _order_metadata(partial)


def _share(net: nn.Module, name: str, source: str) -> None:
    """Makes one tensor serve under both names."""
    places = [name.rpartition("."), source.rpartition(".")]
    (module, one), (other, another) = ((net.get_submodule(path), last) for path, _, last in places)
    setattr(module, one, getattr(other, another))


def _order_metadata(path: Path) -> None:
    """Sorts the metadata, which safetensors writes in a random order, so that equal nets give equal files."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def restore(net: nn.Module, path: Path) -> nn.Module:
    """A copy of the original, folded `net` with the layers and tensors of a checkpoint.

    Raises:
        BuildError: the file is not a checkpoint of this net.
    """
    net = copy.deepcopy(net)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != "edgecomp.checkpoint/1":
            raise BuildError(f"{path} is not a compressed checkpoint")
        replaced = json.loads(metadata["layers"])
        for name, channels in json.loads(metadata.get("channels", "{}")).items():
            if not any(name.startswith(f"{other}.") for other in replaced):
                set_channels(net.get_submodule(name), *channels)
        for name, structure in replaced.items():
            net.set_submodule(name, getattr(layers, structure["class"]).from_structure(structure))
        for name, twin in json.loads(metadata["twins"]).items():
            net.set_submodule(name, net.get_submodule(twin))
        state.update({name: state[source] for name, source in json.loads(metadata["aliases"]).items()})
        net.load_state_dict(state)
        for name, source in json.loads(metadata["aliases"]).items():
            _share(net, name, source)
    except _DAMAGED as error:
        raise BuildError(f"{path} is not a compressed checkpoint of this model: {error}") from error
    return net.eval()
