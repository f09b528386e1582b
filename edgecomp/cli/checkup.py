"""What `edgecomp doctor --phone` looks at, all in one go: everything on a phone that a measurement needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..errors import DeviceError
from ..util.units import format_bytes
from .adb import Adb
from .base import DeviceOptions
from .bundle import kept_bundle
from .target import Target

_ROOM = 500e6  # bytes for program, runtime, files and inputs
_WARM_C, _LOW_PERCENT = 42.0, 30


class Check(NamedTuple):
    """`remedy`: what to do, or what to know where it is fine."""

    what: str
    ok: bool
    state: str
    remedy: str = ""


def checkup(target: Target, serial: str | None) -> Iterator[Check]:
    """The checks, one after the other as they are done; the first one that nothing goes on without ends them."""
    phone = Adb(target, DeviceOptions(serial=serial))
    try:
        with phone:
            yield from _checks(phone, target)
    except DeviceError as error:
        yield Check("phone", False, str(error.args[0]), error.remedy)


def _checks(phone: Adb, target: Target) -> Iterator[Check]:
    facts = phone.read_facts()
    known, state = facts.describe(), facts.state()
    yield Check("phone", True, ", ".join(str(known[key]) for key in ("model", "android", "soc") if key in known))
    yield Check("processor", True, f"{target.abi}, {known.get('cores', 'unknown')} cores")
    room = _room(phone)
    enough = room is None or room > _ROOM
    yield Check(
        phone.parent,
        enough,
        "room unknown" if room is None else f"{format_bytes(room)} free",
        "" if enough else f"Free {format_bytes(int(_ROOM))} on the phone.",
    )
    for runtime in target.runtimes:
        taken = phone.empty_rss_bytes(kept_bundle(target, runtime))
        yield Check(f"{runtime} program", True, f"runs, takes {format_bytes(taken)} without a model")
    if celsius := state.get("temperature_c"):
        cool = celsius <= _WARM_C
        yield Check(
            "temperature",
            cool,
            f"{celsius:.1f} °C ({state['sensor']})",
            "" if cool else f"Let it rest, or measure with --max-temp {_WARM_C:.0f}, which waits.",
        )
    if battery := state.get("battery"):
        full = battery["percent"] >= _LOW_PERCENT
        charging = ", charging, which warms it" if battery["charging"] else ""
        yield Check("battery", full, f"{battery['percent']} %{charging}", "" if full else "Charge it first.")
    asleep = phone.shell("dumpsys power 2>/dev/null | grep -m 1 mWakefulness=").stdout.strip().partition("=")[2]
    if asleep:
        dark = asleep != "Awake"
        yield Check("screen", dark, "off" if dark else "on", "" if dark else "Switch it off: it takes power and warms.")
    pinned = facts.first("taskset") and not phone.shell("taskset 1 true").returncode
    yield Check("cores", True, "programs can be pinned (--cores)" if pinned else "programs cannot be pinned")
    if state.get("governor"):
        yield Check("clocks", True, f"{', '.join(state['governor'])}; they are noted before and after")
    for what in facts.unknown():
        yield Check(what.removeprefix("the "), True, "cannot be read on this phone")


def _room(phone: Adb) -> int | None:
    """Free bytes where programs go."""
    lines = phone.shell(f"df -k {phone.parent}").stdout.splitlines()
    columns = lines[-1].split() if len(lines) > 1 else []
    return int(columns[3]) * 1024 if len(columns) > 3 and columns[3].isdigit() else None
