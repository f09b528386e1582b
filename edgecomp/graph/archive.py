"""Archives of torch.export (.pt2), read without running anything that is in them.

`torch.export.load` unpickles members, hands strings to sympy's evaluator and pastes names into code that it runs. So
it never sees the file: every member is read and checked here, by `archive_grammar`, and what it loads is a new archive
that is written from the checked values. What one zip reader sees and another does not, a key that is said twice, `true`
spelled in another way: none of it is in the new archive.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._export.serde import schema
from torch.export.pt2_archive._package import PT2ArchiveWriter

from ..errors import BuildError
from . import archive_grammar as grammar

_KNOWN = re.compile(
    r"(data/(weights/(weight_\d+|model_weights_config\.json)|constants/(tensor_\d+|model_constants_config\.json)"
    r"|sample_inputs/model\.pt)|models/model\.json|archive_format|archive_version|byteorder|version"
    r"|\.data/(version|serialization_id)|extra/[^/]+)"
)
_MODEL, _EXAMPLES = "models/model.json", "data/sample_inputs/model.pt"
_TENSORS = (("data/weights/", "model_weights_config.json"), ("data/constants/", "model_constants_config.json"))
_ROOM = 64_000_000  # bytes that an archive may always unpack to; beyond, so many times its own size
_TIMES = 4
_MOST = 8_000_000_000
_MOST_JSON = 64_000_000
_MOST_MEMBERS = 100_000
_REMEDY = "Save it again with torch.export.save of torch 2.13, plain tensors only."


def load(path: Path) -> torch.export.ExportedProgram:
    """The program of an archive.

    Raises:
        BuildError: it is no archive, is damaged, unpacks to far more than its size, or holds what a plain program does
            not hold; the member and the place in it are named.
    """
    try:
        clean = io.BytesIO()
        _rewrite(_members(path), clean)
        clean.seek(0)
        return torch.export.load(clean)
    except grammar.Refused as error:
        raise BuildError(f"{path}: {error}; the archive is not opened", _REMEDY) from error
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise BuildError(f"{path} is not a torch.export archive: {error}", _REMEDY) from error
    except MemoryError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise BuildError(f"{path} is not a readable torch.export archive: {reason}", _REMEDY) from error


def _members(path: Path) -> dict[str, bytes]:
    """The members without their root folder; reading them checks their CRCs."""
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        _require_bounded(infos, path.stat().st_size)
        members: dict[str, bytes] = {}
        for info in infos:
            name = info.filename.partition("/")[2]
            if not _KNOWN.fullmatch(name) or info.is_dir():
                raise grammar.Refused(f"member {info.filename!r} is none of a plain program")
            if name in members or info.filename.partition("/")[0] != infos[0].filename.partition("/")[0]:
                raise grammar.Refused(f"member {info.filename!r} is there twice, or in another folder")
            if info.filename.endswith(".json") and info.file_size > _MOST_JSON:
                raise grammar.Refused(f"member {info.filename!r} has {info.file_size:,} bytes")
            members[name] = archive.read(info)
        return members


def _require_bounded(infos: list[zipfile.ZipInfo], size: int) -> None:
    unpacked, most = sum(info.file_size for info in infos), min(_MOST, max(_ROOM, _TIMES * size))
    if unpacked > most or len(infos) > _MOST_MEMBERS:
        raise grammar.Refused(f"{size:,} bytes unpack to {unpacked:,} in {len(infos):,} members, at most {most:,}")


def _rewrite(members: dict[str, bytes], clean: io.BytesIO) -> None:
    """Writes the archive that torch is given: what has been checked, and nothing else."""
    if members.get("archive_format") != b"pt2" or members.get("byteorder", b"little") != b"little":
        raise grammar.Refused("it is no little-endian pt2 archive")
    with PT2ArchiveWriter(clean) as writer:
        for folder, name in _TENSORS:
            config = grammar.checked(schema.PayloadConfig, _json(members, folder + name), name)
            for file in sorted(_require_tensors(config["config"], members, folder)):
                writer.write_bytes(file, members[file])
            writer.write_string(folder + name, json.dumps(config))
        writer.write_string(_MODEL, json.dumps(grammar.program(_json(members, _MODEL))))
        if _EXAMPLES in members:
            writer.write_bytes(_EXAMPLES, _examples(members[_EXAMPLES]))


def _json(members: dict[str, bytes], name: str) -> Any:
    if name not in members:
        raise grammar.Refused(f"member {name} is missing")
    try:
        return json.loads(members[name].decode("utf-8"), object_pairs_hook=lambda pairs: _once(pairs, name))
    except (ValueError, RecursionError) as error:
        raise grammar.Refused(f"member {name} is not JSON: {error}") from error


def _once(pairs: list[tuple[str, Any]], name: str) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise grammar.Refused(f"member {name} has a key twice")
    return unique


def _require_tensors(config: dict[str, Any], members: dict[str, bytes], folder: str) -> set[str]:
    """The members that hold the tensors of a payload. None may claim more values than its member has: a stride of 0
    makes a gigabyte of one byte."""
    files, total = set(), 0
    for name, payload in config.items():
        file, meta = folder + payload["path_name"], payload["tensor_meta"]
        if payload["use_pickle"] is not False or meta is None:
            raise grammar.Refused(f"{name} is pickled")
        if file not in members:
            raise grammar.Refused(f"member {file} is missing")
        numbers = [*meta["sizes"], *meta["strides"], meta["storage_offset"]]
        if not all(list(x) == ["as_int"] and x["as_int"] >= 0 for x in numbers):
            raise grammar.Refused(f"{name} has sizes that are no numbers")
        sizes = [x["as_int"] for x in meta["sizes"]]
        claimed = math.prod(sizes) * grammar.value_bytes(meta["dtype"])
        total += claimed
        if claimed > len(members[file]):
            raise grammar.Refused(f"{name} has values of {claimed:,} bytes in {len(members[file]):,}")
        files.add(file)
    if total > max(_ROOM, _TIMES * sum(len(members[file]) for file in files)):
        raise grammar.Refused(f"{folder} has values of {total:,} bytes, the same ones many times")
    return files


def _examples(data: bytes) -> bytes:
    """The example inputs, saved anew: a tuple of tensors and a dict of them."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as inner:
            _require_bounded(inner.infolist(), len(data))
        examples = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise grammar.Refused(f"member {_EXAMPLES} holds pickled Python objects, or is damaged") from error
    args, keywords = examples if isinstance(examples, tuple) and len(examples) == 2 else ((), None)
    plain = isinstance(args, tuple | list) and isinstance(keywords, dict)
    if not plain or not all(map(_is_plain, (*args, *keywords.values()))):
        raise grammar.Refused(f"member {_EXAMPLES} is no tuple of tensors with a dict of them")
    if not all(isinstance(key, str) and grammar.is_name(key) for key in keywords):
        raise grammar.Refused(f"member {_EXAMPLES} has names that are none")
    buffer = io.BytesIO()
    torch.save((tuple(args), dict(keywords)), buffer)
    return buffer.getvalue()


def _is_plain(x: object) -> bool:
    plain = isinstance(x, Tensor) and type(x) in (Tensor, torch.nn.Parameter) and x.layout == torch.strided
    return plain and x.device.type == "cpu" and x.numel() * x.element_size() <= x.untyped_storage().nbytes()
