"""Which devices there are, and which of them to measure on."""

from __future__ import annotations

import re

from ..errors import DeviceError, UsageError, unknown
from .base import Device, DeviceOptions
from .target import Target

_OWNER = {"--serial": "adb", "--host": "ssh"}  # options of one device


def chosen(target: Target, on: str | None, place: DeviceOptions | None = None) -> list[str]:
    """Names of the devices to measure on. The host always takes part, except with `--on none`.

    Raises:
        UsageError: the target has no such device, or it does not take these settings.
        DeviceError: what the device needs is not installed, or it is not there.
    """
    place = place or DeviceOptions()
    name = on or target.devices[0]
    if name != "none" and name not in {"host", *target.devices}:
        raise unknown(f"device of target {target.name}", name, {"host", "none", *target.devices})
    for option, value in (("--serial", place.serial), ("--host", place.host)):
        if value and name != _OWNER[option]:
            raise UsageError(f"{option} is for --on {_OWNER[option]}, not {name}")
    if name not in _OWNER.values() and (place.cores or place.max_temp_c is not None):
        raise UsageError("--cores and --max-temp are for --on adb and --on ssh")
    if place.cores and not re.fullmatch(r"big|little|(0x)?0*[0-9a-fA-F]*[1-9a-fA-F][0-9a-fA-F]*", place.cores):
        raise UsageError(f"--cores {place.cores}", "Say big, little, or a hexadecimal mask of cores such as f0.")
    if name == "ssh" and not place.host:
        raise UsageError("--on ssh needs a computer", "Name it with --host USER@HOST.")
    if name == "none":
        return []
    problem, remedy = make_device(name, target, place).missing()
    if problem:
        raise DeviceError(problem, remedy)
    return list(dict.fromkeys(["host", name]))


def listing() -> list[tuple[str, str, str, str]]:
    """Rows (name, what it is, state, remedy) of every device that can be seen from here."""
    from . import phones
    from .target import find_target, target_names

    rows = [("host", "this machine", "ready", "")]
    targets = [find_target(name) for name in target_names()]
    for command, target in {t.emulator.command: t for t in targets if t.emulator and "qemu" in t.devices}.items():
        problem, remedy = make_device("qemu", target).missing()
        rows.append(("qemu", f"{command}, {target.emulator.cpu}", problem or "ready", remedy))
    try:
        for phone in phones.phones():
            state = "ready" if phone.state == "device" else phone.state
            rows.append((f"adb --serial {phone.serial}", phone.model, state, phones.REMEDIES.get(phone.state, "")))
        if not rows[-1][0].startswith("adb"):
            rows.append(("adb", "phones", "none connected", phones.CONNECT))
    except DeviceError as error:
        rows.append(("adb", "phones", error.args[0], error.remedy))
    return [*rows, ("ssh --host USER@HOST", "a Linux computer in the network", "as ssh can reach it", "")]


def make_device(name: str, target: Target, place: DeviceOptions | None = None) -> Device:
    """The device of that name for a target."""
    if name == "qemu":
        from .qemu import Qemu

        return Qemu(target)
    if name == "adb":
        from .adb import Adb

        return Adb(target, place or DeviceOptions())
    if name == "ssh":
        from .ssh import Ssh

        return Ssh(target, place or DeviceOptions())
    from .host import Host

    return Host()
