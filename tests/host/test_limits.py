"""cgroups: version 2, version 1, none."""

from __future__ import annotations

from pathlib import Path

import pytest

from perunml.host import limits
from perunml.host.limits import Cgroup


def version_1(tmp_path: Path) -> str:
    lines = []
    for controller in ("memory", "pids"):
        (tmp_path / controller).mkdir()
        lines.append(f"36 30 0:31 / {tmp_path}/{controller} rw,relatime - cgroup cgroup rw,{controller}")
    return "\n".join(lines)


def test_version_1_has_a_folder_per_controller(tmp_path: Path) -> None:
    """Memory and processes are bounded, swap is forbidden by making both bounds one."""
    group = limits.make_cgroup("run1", 123456, version_1(tmp_path))
    assert group is not None
    assert group.kind == "cgroup v1 (memory, pids)"
    assert (tmp_path / "memory/perunml/run1/memory.limit_in_bytes").read_text() == "123456"
    assert (tmp_path / "pids/perunml/run1/pids.max").read_text() == "4096"
    assert group.forbids_swap()
    (tmp_path / "memory/perunml/run1/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert group.out_of_memory()


def test_version_2_is_one_folder(tmp_path: Path) -> None:
    """The unified hierarchy is taken where it has the memory controller."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    group = limits.make_cgroup("run1", 99, f"1 2 0:3 / {tmp_path} rw - cgroup2 cgroup2 rw")
    assert group is not None
    assert group.version == 2
    folder = tmp_path / "perunml/run1"
    assert [(folder / name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max")] == [
        "99",
        "0",
        "4096",
    ]
    assert group.forbids_swap()
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 0\n")
    assert not group.out_of_memory()
    group.add(17)
    assert (folder / "cgroup.procs").read_text() == "17"
    group.kill()
    assert (folder / "cgroup.kill").read_text() == "1"


def test_version_2_without_memory_falls_back_to_version_1(tmp_path: Path) -> None:
    """A machine with both mounted has its controllers in version 1."""
    (tmp_path / "cgroup.controllers").write_text("")
    mounts = f"1 2 0:3 / {tmp_path} rw - cgroup2 cgroup2 rw\n" + version_1(tmp_path)
    group = limits.make_cgroup("run1", 1, mounts)
    assert group is not None
    assert group.version == 1


@pytest.mark.parametrize(
    "mounts",
    ["", "nonsense", "1 2 0:3 / /nowhere/at/all rw - cgroup cgroup rw,memory", "1 2 0:3 / /proc rw - cgroup2 x rw"],
)
def test_machine_without_cgroups_gives_none(mounts: str) -> None:
    """None is said as None; resource limits bound the job then."""
    assert limits.make_cgroup("run1", 1, mounts) is None


def test_missing_files_prove_nothing(tmp_path: Path) -> None:
    """A cgroup whose files cannot be read neither forbids swap nor saw the end of memory."""
    group = Cgroup(2, {"memory": tmp_path / "gone"})
    assert not group.forbids_swap()
    assert not group.out_of_memory()
    group.kill()
    group.remove()


def test_leftover_groups_are_found(tmp_path: Path) -> None:
    """A restarted agent finds what an earlier one made."""
    mounts = version_1(tmp_path)
    limits.make_cgroup("run1", 1, mounts)
    (found,) = limits.find_cgroups("run1", mounts)
    assert found.version == 1
    assert not limits.find_cgroups("run2", mounts)
