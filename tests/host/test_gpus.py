"""GPUs' device nodes in the sandbox, for one run at a time. The nodes here are the kernel's /dev/zero under their names."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.test_sandbox import ask
from perunml.host.gpus import claim, describe, nodes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes device nodes, as root alone may")


@pytest.fixture
def dev() -> Iterator[Path]:
    """Two GPUs, and what else the driver makes; where any user may walk to, as to /dev."""
    made = Path(tempfile.mkdtemp(prefix="perunml-dev-"))
    made.chmod(0o755)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-modeset", "nvidia-uvm-tools", "sda"):
        os.mknod(made / name, stat.S_IFCHR | 0o666, os.makedev(1, 5))
        (made / name).chmod(0o666)
    yield made
    shutil.rmtree(made)


def test_a_job_needs_these_nodes_and_sees_no_others(dev: Path) -> None:
    """Each GPU's own, the control node and unified memory's; not the display's, nor a file under their name."""
    assert list(nodes(dev)) == ["/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl"]
    (dev / "nvidia2").write_text("a file")
    (dev / "nvidia3").symlink_to(dev / "sda")
    assert len(nodes(dev)) == 4
    (dev / "nvidia-uvm").unlink()
    assert nodes(dev) == {}


INFORMATION = (
    "Model: \t\t NVIDIA H200\nIRQ:   \t\t 154\nGPU UUID: \t GPU-{}\nVideo BIOS: \t 96.00.89.00.01\nBus Type: \t PCIe\n"
    "Device Minor: \t {}\nGPU Excluded:\t No\n"
)
VERSION = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build  (dvs)\nGCC version:  gcc 12\n"
)


def driver(folder: Path, uuids: list[str], version: str = VERSION, first: int = 0) -> Path:
    """What a driver shows below /proc."""
    for number, uuid in enumerate(uuids):
        (folder / "gpus" / f"0000:{number:02}:00.0").mkdir(parents=True)
        (folder / "gpus" / f"0000:{number:02}:00.0" / "information").write_text(
            INFORMATION.format(uuid, number + first)
        )
    (folder / "version").write_text(version)
    return folder


A, B = "11111111-2222-3333-4444-555555555555", "01111111-2222-3333-4444-555555555555"


def test_the_driver_says_which_gpus_a_job_was_shown(dev: Path, tmp_path: Path) -> None:
    """Version, models, UUIDs, in an order of their own."""
    shown = driver(tmp_path / "proc", [A, B])
    with claim(dev, tmp_path / "lock", shown) as found:
        assert found.devices is not None
        assert found.devices.as_json() == {
            "driver": "570.133.20",
            "gpus": [{"name": "NVIDIA H200", "uuid": f"GPU-{B}"}, {"name": "NVIDIA H200", "uuid": f"GPU-{A}"}],
        }
        with claim(dev, tmp_path / "lock", shown) as other:
            assert other.devices is None
    older = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 22:20:39 UTC 2023\n"
    assert (found_older := describe(["nvidia0"], driver(tmp_path / "older", [A], older))) is not None
    assert found_older.driver == "535.54.03"


@pytest.mark.parametrize("uuids", [[], ["????????-????-????-????-????????????"], [A, A], [A, "x" * 36]])
def test_a_driver_that_says_otherwise_is_not_quoted(uuids: list[str], tmp_path: Path) -> None:
    """Where one GPU cannot be named, none is: a receipt with some of them would mislead."""
    shown = [f"nvidia{number}" for number in range(len(uuids))]
    assert describe(shown, driver(tmp_path, uuids)) is None
    assert describe(["nvidia0"], tmp_path / "none") is None
    assert describe(["nvidia0"], driver(tmp_path / "v", [A], "NVRM version: ?\n")) is None
    (tmp_path / "v" / "version").write_bytes(b"NVRM version: \xff\xfe\n")
    assert describe(["nvidia0"], tmp_path / "v") is None


def test_a_gpu_that_the_job_was_not_shown_is_in_no_receipt(tmp_path: Path) -> None:
    """Below /proc are all of a machine's, of which a container may have some; and where one that is shown is not told of, none is named."""
    found = describe(["nvidia1"], driver(tmp_path, [A, B]))
    assert found is not None
    assert [gpu.uuid for gpu in found.gpus] == [f"GPU-{B}"]
    assert describe(["nvidia0", "nvidia1"], driver(tmp_path / "one", [A], first=1)) is None
    text = (tmp_path / "one/gpus/0000:00:00.0/information").read_text()
    (tmp_path / "one/gpus/0000:00:00.0/information").write_text(text.replace("Device Minor", "Minor"))
    assert describe(["nvidia1"], tmp_path / "one") is None


def test_a_machine_without_gpus_has_none(tmp_path: Path) -> None:
    """The control node alone is none."""
    assert nodes(tmp_path) == {}
    os.mknod(tmp_path / "nvidiactl", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    assert nodes(tmp_path) == {}
    with claim(tmp_path, tmp_path / "lock") as found:
        assert (found.nodes, found.taken) == ({}, False)


def _hold(dev: Path, lock: Path, ready: object) -> None:
    with claim(dev, lock) as found:
        ready.put(len(found.nodes))  # type: ignore[attr-defined] # a queue
        ready.get()  # type: ignore[attr-defined]


def test_one_run_at_a_time_has_them(dev: Path, tmp_path: Path) -> None:
    """A second one is told that they are taken; killed, the first one holds nothing."""
    lock = tmp_path / "lock"
    with claim(dev, lock) as first, claim(dev, lock) as second:
        assert (len(first.nodes), second.nodes, second.taken) == (4, {}, True)
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    other = context.Process(target=_hold, args=(dev, lock, ready))
    other.start()
    assert ready.get(timeout=60) == 4
    assert claim(dev, lock).taken
    other.kill()
    other.join()
    with claim(dev, lock) as third:
        assert len(third.nodes) == 4


@pytest.mark.sandbox
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed; `make setup` installs it")
def test_a_job_opens_its_gpus_and_without_them_there_are_none(dev: Path) -> None:
    """Read and written as the job's user, through every layer; the machine's other nodes are not there in either case."""
    code = """
        for name in ("nvidia0", "nvidiactl", "nvidia-uvm"):
            attempt(name, lambda: (open("/dev/" + name, "rb").read(2), open("/dev/" + name, "wb", 0).write(b"x")))
        attempt("others", lambda: sorted(n for n in os.listdir("/dev") if "nvidia" in n or n == "sda"))
        """
    found = ask(code, devices={shown: str(real) for shown, real in nodes(dev).items()})["found"]
    assert {found[name] for name in ("nvidia0", "nvidiactl", "nvidia-uvm")} == {"(b'\\x00\\x00', 1)"}
    assert found["others"] == "['nvidia-uvm', 'nvidia0', 'nvidia1', 'nvidiactl']"
    found = ask(code)["found"]
    assert found["nvidia0"].startswith("FileNotFoundError")
    assert found["others"] == "[]"
