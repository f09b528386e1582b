"""The bench program and its devices: the same numbers everywhere, clean errors, counted instructions."""

import copy
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from running import read_first
from torch import nn

from edgecomp import discover
from edgecomp.devices import choose
from edgecomp.devices.bundle import BENCH, host_bundle, make_bundle
from edgecomp.devices.host import HOST_TARGET, Host
from edgecomp.devices.qemu import Qemu
from edgecomp.devices.target import find_target
from edgecomp.devices.tensors import write_records
from edgecomp.errors import DeviceError, UsageError
from edgecomp.load import load
from edgecomp.methods import pq
from edgecomp.records import Request
from edgecomp.runtimes import executorch

ANDROID = find_target("android-arm64")
pytestmark = pytest.mark.xdist_group("devices")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """An exported coded net, inputs, and a bundle for the host and one for ARM64."""
    from conftest import TINY_DATA, TINY_MODEL

    folder = tmp_path_factory.mktemp("scene")
    (folder / "tiny.py").write_text(TINY_MODEL + TINY_DATA)
    model = load(Request(model=str(folder / "tiny.py")))
    net = copy.deepcopy(model.net)
    for name in ("conv2", "dense1", "dense2"):
        net.set_submodule(name, pq.compress(net.get_submodule(name), pq.Config(), None, 0))
    executorch.export(net, model.example_inputs, folder / "m.pte")
    write_records(folder / "inputs", list(model.data.test.take(slice(8))))
    make_bundle(ANDROID, "executorch", folder / "arm64")
    return folder, host_bundle(find_target(HOST_TARGET), "executorch")


def test_host_and_emulator_give_the_same_outputs(scene, tmp_path):
    folder, host = scene
    Host().run(host, folder / "m.pte", folder / "inputs", tmp_path / "host", threads=1)
    Qemu(ANDROID).run(folder / "arm64", folder / "m.pte", folder / "inputs", tmp_path / "qemu", threads=1)
    a, b = (read_first(tmp_path / name, 8, 10) for name in ("host", "qemu"))
    assert torch.allclose(a, b, rtol=0, atol=0.01 * a.abs().max())
    assert a.abs().max() > 0


def test_samples_are_counted_as_asked(scene):
    folder, host = scene
    run = Host().run(host, folder / "m.pte", folder / "inputs", threads=1, warmup=3, repeat=2)
    assert len(run.samples_ms) == 2 * 8
    assert min(run.samples_ms) > 0 and run.load_ms > 0 and run.peak_rss_bytes > 1_000_000
    assert len(run.warmup_ms) == 3 and run.peak_rss_bytes > run.rss_anon_bytes > 0
    assert 1_000_000 < Host().empty_rss_bytes(host) < run.peak_rss_bytes


def test_a_least_time_is_kept(scene, tmp_path):
    folder, host = scene
    (tmp_path / "one").write_bytes((folder / "inputs").read_bytes()[: 144 * 4])
    run = Host().run(host, folder / "m.pte", tmp_path / "one", threads=1, repeat=2, least_ms=50)
    assert len(run.samples_ms) > 2 and sum(run.samples_ms) >= 50


def test_instructions_hardly_vary(scene):
    folder, _ = scene
    counts = [
        Qemu(ANDROID).run(folder / "arm64", folder / "m.pte", folder / "inputs", threads=1).instructions[1:]
        for _ in range(2)
    ]
    assert len(counts[0]) == 7
    flat = counts[0] + counts[1]
    assert max(flat) < 1.01 * min(flat)


@pytest.mark.parametrize("runtime", ["executorch", "litert"])
def test_profile_of_every_operator(scene, tmp_path, runtime):
    folder, _ = scene
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 256)
    )
    net[3] = pq.compress(net[3], pq.Config(), None, 0)
    discover.runtime(runtime).export(net.eval(), (torch.zeros(1, 1, 12, 12),), tmp_path / "m")
    make_bundle(ANDROID, runtime, tmp_path / "arm64")
    host = host_bundle(find_target(HOST_TARGET), runtime)
    (tmp_path / "inputs").write_bytes((folder / "inputs").read_bytes()[: 144 * 4])
    options = {"threads": 1, "warmup": 2, "repeat": 2, "profile": 1}
    here = Host().run(host, tmp_path / "m", tmp_path / "inputs", **options).operators
    run = Qemu(ANDROID).run(tmp_path / "arm64", tmp_path / "m", tmp_path / "inputs", **options)
    names = [name for name, _ in run.operators]
    assert names == [name for name, _ in here] and names[: len(names) // 2] == names[len(names) // 2 :]
    (conv,), (coded,), (dense,) = (
        [count for name, count in run.operators[: len(names) // 2] if part in name]
        for part in ("Convolution", "codebook_linear", "Fully Connected")
    )
    # Four products an instruction at most, and no more than four instructions a product.
    for count, products in ((conv, 8 * 9 * 100), (dense, 256 * 256)):
        assert products / 4 < count < 4 * products
    assert 800 * 256 / 16 < coded < 800 * 256 and all(time >= 0 for _, time in here)
    assert sum(count for _, count in run.operators) < sum(run.instructions[2:])


def test_the_bundle_needs_nothing_of_the_host(scene, tmp_path):
    """Started through its own loader in an empty root; every library it maps comes from the bundle."""
    folder, _ = scene
    bundle = shutil.copytree(folder / "arm64", tmp_path / "elsewhere")
    command = [
        "qemu-aarch64",
        "-L",
        "/nonexistent",
        str(bundle / "lib/ld-linux-aarch64.so.1"),
        "--library-path",
        str(bundle / "lib"),
    ]
    listed = subprocess.run([*command, "--list", str(bundle / BENCH)], capture_output=True, text=True, check=True)
    paths = [line.split("=>")[1].split("(")[0].strip() for line in listed.stdout.splitlines() if "=>" in line]
    assert paths and all(path.startswith(str(bundle)) for path in paths)
    done = subprocess.run(
        [*command, str(bundle / BENCH), "--model", str(folder / "m.pte"), "--inputs", str(folder / "inputs")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "sample_ms" in done.stdout


def test_run_script_of_the_host_bundle(scene):
    folder, host = scene
    done = subprocess.run(
        [host / "run.sh", "--model", folder / "m.pte", "--inputs", folder / "inputs"], capture_output=True
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    "options,message",
    [({"repeat": 0}, "out of range"), ({"nonsense": 1}, "unknown option")],
)
def test_bad_options(scene, options, message):
    folder, host = scene
    with pytest.raises(DeviceError, match=message):
        Host().run(host, folder / "m.pte", folder / "inputs", **options)


def test_inputs_cut_short_and_missing_files(scene, tmp_path):
    folder, host = scene
    (tmp_path / "short").write_bytes((folder / "inputs").read_bytes()[:-3])
    with pytest.raises(DeviceError, match="whole records"):
        Host().run(host, folder / "m.pte", tmp_path / "short")
    with pytest.raises(DeviceError, match="cannot open"):
        Host().run(host, folder / "m.pte", tmp_path / "absent")
    with pytest.raises(DeviceError, match="cannot write"):
        Host().run(host, folder / "m.pte", folder / "inputs", tmp_path / "no" / "folder")


def test_a_program_that_dies_is_named_with_its_signal(tmp_path):
    """A fake program: this is a test of our own control flow."""
    script = tmp_path / "run.sh"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    with pytest.raises(DeviceError, match="SIGSEGV"):
        Host().run(tmp_path, Path("m.pte"), Path("inputs"))


def test_missing_emulator_is_exit_4_with_its_package(monkeypatch):
    absent = ANDROID.emulator.model_copy(update={"command": "qemu-absent"})
    with pytest.raises(DeviceError, match="apt-get install qemu-user") as caught:
        choose.chosen(ANDROID.model_copy(update={"emulator": absent}), None)
    assert caught.value.exit_code == 4


def test_choice_of_devices():
    assert choose.chosen(ANDROID, None) == ["host", "qemu"]
    assert choose.chosen(ANDROID, "host") == ["host"]
    assert choose.chosen(ANDROID, "none") == []
    assert choose.chosen(find_target(HOST_TARGET), None) == ["host"]
    with pytest.raises(UsageError, match="qemu"):
        choose.chosen(ANDROID, "qenu")
