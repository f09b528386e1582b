"""The phones that adb knows of. Imported without the adb client: listing devices must not wait for it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from ..errors import DeviceError

REMEDIES = {
    "unauthorized": "Unlock the phone, and allow USB debugging for this computer in the dialog it shows.",
    "authorizing": "Unlock the phone, and allow USB debugging for this computer in the dialog it shows.",
    "offline": "Pull the cable and plug it in again, or run: adb reconnect offline",
    "no permissions": "Run: sudo apt-get install android-sdk-platform-tools-common; then plug it in again.",
    "recovery": "Start Android on it: adb reboot",
    "sideload": "Start Android on it: adb reboot",
    "bootloader": "Start Android on it: fastboot reboot",
}
CONNECT = "Plug in a phone with USB debugging switched on, or name one in the network: --serial ADDRESS:PORT."


@dataclass(frozen=True)
class Phone:
    """A line of `adb devices -l`. `state`: `device` if it can be used; `model` is empty where adb does not know it."""

    serial: str
    state: str
    model: str = ""


def phones() -> list[Phone]:
    """Everything the adb server knows of, usable or not; the server is started if there is none.

    Raises:
        DeviceError: there is no adb, or its server does not answer.
    """
    if shutil.which("adb") is None:
        raise DeviceError("adb is not installed", "Run: sudo apt-get install adb")
    try:
        done = subprocess.run(["adb", "devices", "-l"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", "") or "").strip() or error
        raise DeviceError(f"the adb server does not answer: {reason}", "Run: adb kill-server; adb devices") from error
    connected = []
    for line in filter(None, done.stdout.partition("List of devices attached\n")[2].splitlines()):
        serial, _, rest = line.partition(" ")
        model = re.search(r"\bmodel:(\S+)", rest)
        state = "no permissions" if "no permissions" in rest else rest.split()[0]
        connected.append(Phone(serial, state, model[1].replace("_", " ") if model else ""))
    return connected
