"""Runs exported files that stand in no report."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgecomp.devices.bundle import host_bundle
from edgecomp.devices.host import HOST_TARGET, Host
from edgecomp.devices.target import find_target
from edgecomp.devices.tensors import write_records


def run_on_host(runtime: str, path: Path, inputs: list[Tensor], outputs: int, threads: int = 1) -> Tensor:
    """The first output of an exported file on this machine, (N, outputs) fp32.

    Args:
        inputs: one tensor per input of the file, each (N, …) with N records, of the dtypes that the file takes.
        outputs: values per record of the first output.
    """
    with tempfile.TemporaryDirectory() as temporary:
        records, result = Path(temporary, "inputs"), Path(temporary, "outputs")
        write_records(records, inputs)
        Host().run(host_bundle(find_target(HOST_TARGET), runtime), path, records, result, threads=threads)
        return read_first(result, len(inputs[0]), outputs)


def read_first(path: Path, records: int, outputs: int) -> Tensor:
    """The same from a file that the bench program wrote."""
    return torch.from_numpy(np.fromfile(path, np.float32).reshape(records, -1)[:, :outputs].copy())
