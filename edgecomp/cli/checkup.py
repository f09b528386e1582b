"""What `edgecomp doctor --phone` looks at, all in one go: everything on a phone that a measurement needs."""

from __future__ import annotations

from collections.abc import Iterator

from ..devices.adb import Adb
from ..devices.base import DeviceOptions
from ..devices.bundle import kept_bundle
from ..devices.target import Target
from ..errors import DeviceError
from ..util.units import format_bytes
from .doctor import Finding

_ROOM = 500e6  # bytes for program, runtime, files and inputs
_WARM_C, _LOW_PERCENT = 42.0, 30


def checkup(target: Target, serial: str | None) -> Iterator[Finding]:
    """The findings, one after the other as they are done; the first one that nothing goes on without ends them."""
    phone = Adb(target, DeviceOptions(serial=serial))
    try:
        with phone:
            yield from _checks(phone, target)
    except DeviceError as error:
        yield Finding("phone", False, str(error.args[0]), error.remedy)


def _checks(phone: Adb, target: Target) -> Iterator[Finding]:
    facts = phone.read_facts()
    known, state = facts.describe(), facts.state()
    yield Finding("phone", True, ", ".join(str(known[key]) for key in ("model", "android", "soc") if key in known))
    yield Finding("processor", True, f"{target.abi}, {known.get('cores', 'unknown')} cores")
    room = _room(phone)
    enough = room is None or room > _ROOM
    yield Finding(
        phone.parent,
        enough,
        "room unknown" if room is None else f"{format_bytes(room)} free",
        "" if enough else f"Free {format_bytes(int(_ROOM))} on the phone.",
    )
    for runtime in target.runtimes:
        taken = phone.empty_rss_bytes(kept_bundle(target, runtime))
        yield Finding(f"{runtime} program", True, f"runs, takes {format_bytes(taken)} without a model")
    if celsius := state.get("temperature_c"):
        cool = celsius <= _WARM_C
        yield Finding(
            "temperature",
            cool,
            f"{celsius:.1f} °C ({state['sensor']})",
            "" if cool else f"Let it rest, or measure with --max-temp {_WARM_C:.0f}, which waits.",
        )
    if battery := state.get("battery"):
        full = battery["percent"] >= _LOW_PERCENT
        charging = ", charging, which warms it" if battery["charging"] else ""
        yield Finding("battery", full, f"{battery['percent']} %{charging}", "" if full else "Charge it first.")
    asleep = phone.shell("dumpsys power 2>/dev/null | grep -m 1 mWakefulness=").stdout.strip().partition("=")[2]
    if asleep:
        dark = asleep != "Awake"
        yield Finding(
            "screen", dark, "off" if dark else "on", "" if dark else "Switch it off: it takes power and warms."
        )
    pinned = facts.first("taskset") and not phone.shell("taskset 1 true").returncode
    yield Finding("cores", True, "programs can be pinned (--cores)" if pinned else "programs cannot be pinned")
    if state.get("governor"):
        yield Finding("clocks", True, f"{', '.join(state['governor'])}; they are noted before and after")
    for what in facts.unknown():
        yield Finding(what.removeprefix("the "), True, "cannot be read on this phone")


def _room(phone: Adb) -> int | None:
    """Free bytes where programs go."""
    lines = phone.shell(f"df -k {phone.parent}").stdout.splitlines()
    columns = lines[-1].split() if len(lines) > 1 else []
    return int(columns[3]) * 1024 if len(columns) > 3 and columns[3].isdigit() else None
