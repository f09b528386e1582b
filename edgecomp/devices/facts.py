"""What a device says about itself: one script for the shells of phones (toybox, mksh) and of Linux computers, and what
is read out of its answer. What a device does not say is a remark, never a guess."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..errors import DeviceError, UsageError

# Nothing here may fail or wait: what is absent or forbidden is left out. (cat: the shell of a phone has no $(<FILE).)
SCRIPT = r"""
exec 2>/dev/null
echo '== cpu'
for c in /sys/devices/system/cpu/cpu[0-9]*; do
  for f in cpufreq/cpuinfo_max_freq cpufreq/scaling_cur_freq cpufreq/scaling_governor cpu_capacity; do
    [ -r $c/$f ] && echo "${c##*/cpu} ${f##*/} $(cat $c/$f)"
  done
done
echo '== online'; cat /sys/devices/system/cpu/online
echo '== zones'
for z in /sys/class/thermal/thermal_zone*; do echo "$(cat $z/temp) $(cat $z/type)"; done
echo '== uname'; uname -srm
echo '== memory'; grep MemTotal /proc/meminfo
echo '== taskset'; command -v taskset
if command -v getprop >/dev/null; then
  echo '== getprop'; getprop
  echo '== battery'; dumpsys battery
  echo '== thermal'; dumpsys thermalservice
else
  echo '== system'; grep PRETTY_NAME /etc/os-release
  echo '== board'; tr -d '\0' </proc/device-tree/model; echo
  echo '== processor'; grep -m 1 'model name' /proc/cpuinfo
fi
"""

_OF_THE_CPU = re.compile(r"cpu|soc|tsens|cluster|big|little|mid|gold|silver|apc|x86_pkg", re.IGNORECASE)
_CPU_ZONE = re.compile(r"Temperature\{mValue=([\d.]+), mType=0, mName=([^,}]+)")
_CHARGERS = ("AC powered", "USB powered", "Wireless powered", "Dock powered")


@dataclass(frozen=True)
class Facts:
    """The answer to SCRIPT, by section."""

    sections: dict[str, list[str]]

    @classmethod
    def parse(cls, answer: str) -> Facts:
        sections: dict[str, list[str]] = {}
        for line in answer.replace("\r", "").splitlines():
            if line.startswith("== "):
                lines = sections.setdefault(line[3:], [])
            elif sections and line.strip():
                lines.append(line.strip())
        return cls(sections)

    def first(self, section: str) -> str:
        return next(iter(self.sections.get(section, [])), "")

    @property
    def properties(self) -> dict[str, str]:
        """Android's, as `getprop` prints them."""
        pairs = (re.fullmatch(r"\[(.*?)\]: \[(.*)\]", line) for line in self.sections.get("getprop", []))
        return {pair[1]: pair[2] for pair in pairs if pair}

    def cpus(self, what: str) -> dict[int, str]:
        """One of the values of SCRIPT by the number of the core."""
        rows = (line.split(maxsplit=2) for line in self.sections.get("cpu", []))
        return dict(sorted((int(row[0]), row[2]) for row in rows if len(row) == 3 and row[1] == what))

    def _mhz(self, what: str) -> dict[str, int]:
        return {f"cpu{n}": int(khz) // 1000 for n, khz in self.cpus(what).items()}

    @property
    def online(self) -> list[int]:
        """Numbers of the cores that are switched on."""
        cores: list[int] = []
        for part in filter(None, self.first("online").split(",")):
            low, _, high = part.partition("-")
            cores += range(int(low), int(high or low) + 1)
        return cores

    @property
    def temperature(self) -> tuple[float, str] | None:
        """°C of the hottest sensor of the processor, and its name; of the battery where there is none."""
        rows = (line.split(maxsplit=1) for line in self.sections.get("zones", []))
        zones = [(_celsius(row[0]), row[1]) for row in rows if len(row) == 2 and _OF_THE_CPU.search(row[1])]
        if not (zones := [(value, name) for value, name in zones if 0 < value < 150]):
            thermal = "\n".join(self.sections.get("thermal", []))
            zones = [(float(value), name) for value, name in _CPU_ZONE.findall(thermal)]
        if zones:
            return max(zones)
        battery = self.battery.get("temperature_c")
        return None if battery is None else (battery, "battery")

    @property
    def battery(self) -> dict[str, Any]:
        """Percent, whether it is being charged, and °C; empty where there is none."""
        rows = dict(line.split(": ", 1) for line in self.sections.get("battery", []) if ": " in line)
        if not rows.get("level", "").isdigit():
            return {}
        battery: dict[str, Any] = {"percent": int(rows["level"])}
        battery["charging"] = any(rows.get(charger) == "true" for charger in _CHARGERS)
        if rows.get("temperature", "").lstrip("-").isdigit():
            battery["temperature_c"] = int(rows["temperature"]) / 10
        return battery

    def describe(self) -> dict[str, Any]:
        """What does not change while a device works."""
        p = self.properties
        android = {
            "model": " ".join(
                dict.fromkeys(filter(None, (p.get(f"ro.product.{n}") for n in ("manufacturer", "model"))))
            ),
            "soc": " ".join(filter(None, (p.get(f"ro.soc.{n}") for n in ("manufacturer", "model"))))
            or p.get("ro.board.platform")
            or p.get("ro.hardware"),
            "android": f"{p.get('ro.build.version.release')} (SDK {p.get('ro.build.version.sdk')})",
            "build": p.get("ro.build.id"),
        }
        linux = {
            "model": self.first("board"),
            "processor": self.first("processor").partition(":")[2].strip(),
            "system": self.first("system").partition("=")[2].strip('"'),
        }
        memory = self.first("memory").split()
        facts = {
            **(android if p else linux),
            "kernel": self.first("uname"),
            "memory_bytes": int(memory[1]) * 1024 if len(memory) > 1 else None,
            "cores": len(self.online) or None,
            "max_mhz": self._mhz("cpuinfo_max_freq"),
        }
        return {key: value for key, value in facts.items() if value}

    def state(self) -> dict[str, Any]:
        """What may change: governor and clock of every core, temperature, battery."""
        state: dict[str, Any] = {
            "governor": sorted(set(self.cpus("scaling_governor").values())),
            "mhz": self._mhz("scaling_cur_freq"),
            "battery": self.battery,
        }
        if self.temperature:
            state["temperature_c"], state["sensor"] = self.temperature
        return {key: value for key, value in state.items() if value}

    def unknown(self) -> list[str]:
        """What could not be read, of what a careful measurement records."""
        state, facts = self.state(), self.describe()
        names = {"governor": "the governor", "mhz": "the clocks", "temperature_c": "the temperature"}
        missing = [name for key, name in names.items() if key not in state]
        if self.properties:
            missing += [name for key, name in (("model", "the model"), ("soc", "the SoC")) if not facts.get(key)]
            missing += [] if self.battery else ["the battery"]
        return missing

    def mask(self, cores: str) -> int:
        """The cores meant by `big` (those of the highest capacity or clock), `little` (of the lowest) or a hex mask.

        Raises:
            UsageError: a mask with cores that there are not.
            DeviceError: the device does not tell which are big.
        """
        online = set(self.online)
        if cores not in ("big", "little"):
            mask = int(cores, 16)
            if online and not {n for n in range(mask.bit_length()) if mask >> n & 1} <= online:
                raise UsageError(f"--cores {cores}: the device's cores are {self.first('online')}")
            return mask
        speeds = self.cpus("cpu_capacity") or self.cpus("cpuinfo_max_freq")
        speed = {n: int(value) for n, value in speeds.items() if n in online or not online}
        if not speed:
            raise DeviceError(
                f"--cores {cores}: the device does not tell how fast its cores are", "Give a mask: --cores f0."
            )
        wanted = max(speed.values()) if cores == "big" else min(speed.values())
        return sum(1 << n for n, value in speed.items() if value == wanted)


def _celsius(text: str) -> float:
    """Of what a thermal zone says, in thousandths, tenths or whole degrees."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value / 1000 if abs(value) >= 1000 else value / 10 if abs(value) >= 200 else value
