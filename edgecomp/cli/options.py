"""The options of the commands that more than one of them has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import complete

if TYPE_CHECKING:
    from ..records.base import RecoverCodes

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        help="Model file (Python, which is run), zoo name, package.module:factory, .pt2, .tflite.",
        autocompletion=complete.model,
    ),
]
DataSource = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="FILE|FOLDER", help="Python file with data(), which is run, or a folder of .npy to calibrate."
    ),
]
Method = Annotated[
    str,
    typer.Option("--method", help="Compression method; `edgecomp methods` lists them.", autocompletion=complete.method),
]
TargetName = Annotated[
    str,
    typer.Option(
        "--target", help="Where the model will run; `edgecomp targets` lists them.", autocompletion=complete.target
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the method; `edgecomp methods NAME` lists them.",
        autocompletion=complete.setting,
    ),
]
Layers = Annotated[list[str] | None, typer.Option("--layers", metavar="GLOB", help="Only the layers of these names.")]
Budget = Annotated[str | None, typer.Option(metavar="SIZE", help="Limit for the file, like 10MB. Default: 1/20.")]
MaxDownload = Annotated[str | None, typer.Option(metavar="SIZE", help="Limit for model.edgecomp, what users download.")]
MaxInstalled = Annotated[str | None, typer.Option(metavar="SIZE", help="Limit for model + runtime + kernels.")]
MaxRam = Annotated[str | None, typer.Option(metavar="SIZE", help="Limit for the memory that the model adds.")]
MaxLatency = Annotated[
    str | None, typer.Option(metavar="TIME", help="Limit for the median, like 5ms; not with --on qemu.")
]
MaxInstructions = Annotated[
    str | None, typer.Option(metavar="COUNT", help="Limit for executed ARM64 instructions, like 20M; with --on qemu.")
]
On = Annotated[
    str | None,
    typer.Option(
        "--on", metavar="DEVICE", help="Measure on qemu, adb, ssh, host or none.", autocompletion=complete.device
    ),
]
Tolerance = Annotated[str, typer.Option(metavar="SHARE", help="What a figure may grow by and still be the same.")]
Points = Annotated[float, typer.Option(min=0, metavar="POINTS", help="Accuracy that may be lost all the same.")]
Quick = Annotated[bool, typer.Option("--quick", help="If the model must be trained: one epoch over 10,000 samples.")]
EngineName = Annotated[str, typer.Option("--engine", help="Where tasks run: local processes, or ray.")]
Address = Annotated[str | None, typer.Option("--address", help="Of an existing Ray cluster. Default: one here.")]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Tasks at a time. Default: one a core.")]

Serial = Annotated[str | None, typer.Option(metavar="SERIAL", help="The phone; `edgecomp devices` lists them.")]
Host = Annotated[str | None, typer.Option(metavar="USER@HOST", help="The computer, with --on ssh.")]
Cores = Annotated[str | None, typer.Option(metavar="big|little|MASK", help="Where to run on the device; MASK is hex.")]
MaxTemp = Annotated[float | None, typer.Option(metavar="°C", help="Let the device cool down to this before each turn.")]
NoCustomOps = Annotated[
    bool,
    typer.Option(
        "--no-custom-ops", help="A file without custom ops, for apps that cannot add one: slower, more memory."
    ),
]
OldNoCustomOps = Annotated[bool, typer.Option("--stock", hidden=True)]  # what --no-custom-ops was called before


def of_methods(settings: list[str] | None) -> tuple[str, ...]:
    """Those of `--set` that are not of recovery."""
    return tuple(text for text in settings or () if not text.startswith("recover."))


def recover_codes(settings: list[str] | None) -> RecoverCodes:
    """What `--set recover.codes=…` says.

    Raises:
        UsageError: neither of what it can say, or another setting of recovery.
    """
    from ..errors import unknown

    chosen: RecoverCodes = "learned"
    for text in settings or ():
        key, _, value = text.partition("=")
        if key.startswith("recover.") and key != "recover.codes":
            raise unknown("setting", key, ["recover.codes"])
        if key == "recover.codes":
            if value not in ("learned", "fixed"):
                raise unknown("recover.codes", value, ["learned", "fixed"])
            chosen = value
    return chosen
