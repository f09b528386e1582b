"""What a phone and another computer have in common: a shell, a private folder, cores to choose and heat to wait for."""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from ..errors import DeviceError
from ..records import Evidence
from ..util import progress
from ..util.files import cache_folder
from .base import BenchRun, DeviceOptions
from .bench import bench_arguments, collect, to_run
from .bundle import BENCH
from .facts import SCRIPT, Facts
from .target import Target

_COOLING_S, _LOOK_EVERY_S = 900, 5
_LONGEST_RUN_S = 3600


class Remote:
    """A device behind a shell. Subclasses bring the shell, push and pull.

    All is kept in one folder, the same for every run of this user on this machine, so that what a lost connection may
    have left there is found and removed by the next. A lock on this machine keeps a second run off.
    """

    name: str
    evidence: Evidence
    tells_time = True
    parent: str  # the folder on the device that ours is made in

    def __init__(self, target: Target, place: DeviceOptions) -> None:
        self.target, self.place = target, place
        owner = f"{platform.node()}:{cache_folder()}"
        self.folder = f"{self.parent}/edgecomp-{hashlib.sha256(owner.encode()).hexdigest()[:8]}"
        self._pushed: dict[tuple[str, int, int], str] = {}
        self._facts: Facts | None = None
        self._pin: list[str] = []
        self._remarks: list[str] = []
        self._lock: Any = None

    # --- what subclasses bring ----------------------------------------------------------------------------

    @property
    def where(self) -> str:
        """The device's name for messages."""
        raise NotImplementedError

    def identity(self) -> str:
        """The same for the same device, however it is connected."""
        raise NotImplementedError

    def shell(self, command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs a command line. Raises a DeviceError if the device is lost or does not answer."""
        raise NotImplementedError

    def push(self, local: Path, remote: str) -> None:
        """Copies a file there. Raises a DeviceError if the device is lost, or full."""
        raise NotImplementedError

    def pull(self, remote: str, local: Path) -> None:
        """Copies a file from there. Raises a DeviceError if the device is lost."""
        raise NotImplementedError

    def missing(self) -> tuple[str, str]:
        try:
            with self:
                return "", ""
        except DeviceError as error:
            return error.args[0], error.remedy

    # --- the session --------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._take_lock()
        try:
            self._facts = self.read_facts()
            self._check_processor()
            self._choose_cores()
            self._check_thermometer()
            self._remarks += [f"{what} cannot be read" for what in self._facts.unknown()]
            self._must(self._removal() + f"mkdir -p {self.parent} && mkdir -m 700 {self.folder}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stops what still runs there and removes the folder; what cannot be reached is left to the next run."""
        try:
            if self._facts is not None:
                self.shell(self._removal(), timeout_s=20)
        except DeviceError:
            progress.note(f"{self.where} is out of reach: {self.folder} is removed when it is used next")
        finally:
            self._pushed.clear()
            if self._lock:
                self._lock.close()

    def _take_lock(self) -> None:
        digest = hashlib.sha256(self.identity().encode()).hexdigest()[:16]
        self._lock = open(cache_folder("devices") / f"{digest}.lock", "w")  # noqa: SIM115 (held until __exit__)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise DeviceError(f"{self.where} is in use by another run of edgecomp", "Wait for it.") from error

    def _removal(self) -> str:
        """Ends a program that an earlier run left, if the number is still that program's, and removes the folder."""
        f = self.folder
        return (
            f'p=$(cat {f}/pid 2>/dev/null); if [ -n "$p" ] && grep -q {f} /proc/$p/cmdline 2>/dev/null; '
            f"then kill -9 $p; fi; rm -rf {f}; "
        )

    def _must(self, command: str) -> str:
        done = self.shell(command)
        if done.returncode:
            reason = (done.stderr or done.stdout).strip() or f"code {done.returncode}"
            raise DeviceError(
                f"{self.where}: {reason}", f"Look whether {self.parent} can be written to, and is not full."
            )
        return done.stdout

    # --- facts, heat, cores -------------------------------------------------------------------------------

    def read_facts(self) -> Facts:
        return Facts.parse(self.shell(SCRIPT).stdout)

    def describe(self) -> dict[str, Any]:
        assert self._facts is not None
        facts = {"name": self.name, "identity": self.identity(), **self._facts.describe()}
        if self._pin:
            facts["pinned_to"] = f"{self.place.cores}: mask {self._pin[1]}"
        if self.place.max_temp_c is not None:
            facts["cooled_to_c"] = self.place.max_temp_c
        return facts

    def state(self) -> dict[str, Any]:
        return self.read_facts().state()

    def remarks(self) -> list[str]:
        return list(self._remarks)

    def rest(self) -> None:
        """Waits until the processor is no hotter than asked for.

        Raises:
            DeviceError: it does not cool down, or the thermometer is gone.
        """
        limit, end = self.place.max_temp_c, time.monotonic() + _COOLING_S
        while limit is not None:
            value, sensor = self.read_facts().temperature or (None, "")
            if value is None:
                raise DeviceError(f"{self.where} no longer tells its temperature", "Leave --max-temp out.")
            if value <= limit:
                return
            if time.monotonic() > end:
                raise DeviceError(
                    f"{self.where} is still at {value:.1f} °C ({sensor}) after {_COOLING_S // 60} minutes of rest",
                    f"Put it somewhere cooler, unplug its charger, or allow more than --max-temp {limit:g}.",
                )
            progress.note(f"{value:.1f} °C ({sensor}), waiting for {limit:g} °C")
            time.sleep(_LOOK_EVERY_S)

    def _check_thermometer(self) -> None:
        assert self._facts is not None
        if self.place.max_temp_c is not None and self._facts.temperature is None:
            raise DeviceError(f"{self.where} does not tell its temperature", "Leave --max-temp out.")

    def _check_processor(self) -> None:
        assert self._facts is not None
        machine = self._facts.first("uname").split()[-1:]
        abis = self._facts.properties.get("ro.product.cpu.abilist", "").split(",")
        if self.target.abi not in abis and self.target.machine not in machine:
            has = ", ".join(filter(None, abis)) or " ".join(machine) or "unknown"
            raise DeviceError(
                f"{self.where} is no {self.target.abi}: its processor is {has}",
                "Choose another --target (`edgecomp targets`) or device.",
            )

    def _choose_cores(self) -> None:
        if not self.place.cores:
            return
        assert self._facts is not None
        mask = f"{self._facts.mask(self.place.cores):x}"
        if not self._facts.first("taskset"):
            raise DeviceError(f"{self.where} has no taskset", "Leave --cores out.")
        if self.shell(f"taskset {mask} true").returncode:
            raise DeviceError(
                f"{self.where} does not let programs be pinned to cores {mask}", "Leave --cores out, or choose others."
            )
        self._pin = ["taskset", mask]

    # --- running ------------------------------------------------------------------------------------------

    def run(self, bundle: Path, model: Path, inputs: Path, outputs: Path | None = None, **options: int) -> BenchRun:
        result = f"{self.folder}/outputs" if outputs else None
        arguments = bench_arguments(self._there(model), self._there(inputs), result, options)
        outcome = to_run(self._bench(bundle, arguments, model))
        if outputs:
            self.pull(f"{self.folder}/outputs", outputs)
        return outcome

    def empty_rss_bytes(self, bundle: Path) -> int:
        return self._bench(bundle, [], None)["peak_rss_bytes"]

    def _bench(self, bundle: Path, arguments: list[str], model: Path | None) -> dict[str, Any]:
        """The program's JSON lines. They go to a file there: nothing is sent, and nobody woken, while it measures."""
        # Its own first line names /bin/sh, which old phones do not have.
        program = shlex.join([*self._pin, "sh", f"{self._bundle_there(bundle)}/run.sh", *arguments])
        f = self.folder
        done = self.shell(f"echo $$ >{f}/pid; exec {program} >{f}/out 2>{f}/err", _LONGEST_RUN_S)
        texts = [self.shell(f"cat {f}/{name}; rm -f {f}/pid").stdout for name in ("out", "err")]
        return collect(subprocess.CompletedProcess(program, done.returncode, *texts), self.where, model)

    def _bundle_there(self, bundle: Path) -> str:
        """The folder of the bundle on the device; its model is left out, files to run are pushed as they are needed."""
        files = [bundle / "run.sh", bundle / BENCH, *sorted((bundle / "lib").iterdir())]
        name = "bundle-" + hashlib.sha256(str(bundle).encode()).hexdigest()[:8]
        new = [path for path in files if _key(path) not in self._pushed]
        if new:
            self._must(f"mkdir -p {self.folder}/{name}/lib")
            with progress.bar(f"copying the program to {self.where}", len(new)) as advance:
                for path in new:
                    self._there(path, f"{name}/{path.relative_to(bundle)}")
                    advance(text=path.name)
            self._must(f"chmod 755 {self.folder}/{name}/run.sh {self.folder}/{name}/{BENCH} {self.folder}/{name}/lib/*")
        return f"{self.folder}/{name}"

    def _there(self, path: Path, name: str | None = None) -> str:
        """The path of a file on the device; copied when it is first needed, or has changed."""
        key = _key(path)
        if key not in self._pushed:
            remote = f"{self.folder}/{name or f'file-{len(self._pushed)}'}"
            self.push(path, remote)
            self._pushed[key] = remote
        return self._pushed[key]


def _key(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise DeviceError(f"cannot read {path}: {error.strerror}") from error
    return str(path.resolve()), status.st_size, status.st_mtime_ns
