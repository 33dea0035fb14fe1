"""Which attester a machine has: by looking, and by what its operator says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from attesters.devices import FakeNvattest, FakeNvml, GramineTree
from attesters.kernel import Kernel, SevDriver, snp_report
from attesters.machines import (
    AZURE,
    bare,
    enclave,
    gpu,
    ground,
    old_snp_guest,
    old_tdx_guest,
    snp_guest,
    tdx_guest,
    tpm_server,
    write,
)
from perunml import operators
from perunml.attesters.base import Attester
from perunml.attesters.composite import Composite
from perunml.attesters.detect import Ground, make, present
from perunml.attesters.tee import TeeAttester
from perunml.attesters.tpm import TpmAttester
from perunml.attesters.tsm import TsmReports
from perunml.evidence.parts import GpuPart, SgxPart, SnpPart, TdxPart
from perunml.testing.machine import SimulatedMachine
from perunml.wire.errors import PerunError, Unreachable, UsageError

Machine = Callable[[Path], Ground]
BINDING = bytes(range(48))


def no_tpm() -> NoReturn:
    raise AssertionError("the TPM was not asked for")


def kinds_of(attester: Attester) -> list[str]:
    return [type(part).__name__ for part in attester.collect(BINDING).parts]


@pytest.mark.parametrize(
    ("machine", "found"),
    [
        (bare, ()),
        (tpm_server, ("tpm",)),
        (tdx_guest, ("tdx",)),
        (old_tdx_guest, ()),
        (snp_guest, ("snp",)),
        (old_snp_guest, ("snp",)),
        (enclave, ("sgx",)),
        (gpu(tdx_guest), ("tdx", "gpu")),
        (gpu(tdx_guest, cc=0), ("tdx",)),
        (gpu(tpm_server, cc=0), ("tpm",)),
        (gpu(bare), ()),
    ],
)
def test_auto_takes_what_is_there(machine: Machine, found: tuple[str, ...], tmp_path: Path) -> None:
    """TPM, TEE, GPUs in confidential mode; a GPU alone is no machine. No request is left behind."""
    made = machine(tmp_path)
    assert present(made) == found
    assert not (isinstance(made.tree, Kernel) and made.tree.entries)


def test_auto_makes_what_it_finds(tmp_path: Path) -> None:
    """One attester for one root of trust, a composite for several."""
    both = make(["auto"], no_tpm, gpu(tdx_guest)(tmp_path / "a"))
    assert isinstance(both, Composite)
    assert kinds_of(both) == ["TdxPart", "GpuPart"]
    alone = make(["auto"], no_tpm, enclave(tmp_path / "b"))
    assert isinstance(alone, TeeAttester)
    assert kinds_of(alone) == ["SgxPart"]
    with pytest.raises(UsageError, match="no_root_of_trust") as caught:
        make(["auto"], no_tpm, bare(tmp_path / "c"))
    assert caught.value.reasons[0].command == "perunml host doctor"


@pytest.mark.swtpm
def test_a_tpm_beside_a_tee_comes_first(machine: SimulatedMachine, tmp_path: Path) -> None:
    """And names the machine, which enrols by it."""
    tpm = TpmAttester(machine.tcti, tmp_path / "agent", machine.ima_log)
    assert make(["tpm"], lambda: tpm) is tpm
    made: Any = make(["gpu", "tdx", "tpm"], lambda: tpm, gpu(tdx_guest)(tmp_path / "tree"))
    assert kinds_of(made) == ["TpmPart", "TdxPart", "GpuPart"]
    assert made.machine == tpm.machine
    assert made.enrolment() == tpm.enrolment()
    assert callable(made.activate)


def test_an_snp_guest_is_asked_by_the_interface_that_answers(tmp_path: Path) -> None:
    """configfs first; the device where there is no folder, or nobody behind it."""
    driver = SevDriver()
    root = write(tmp_path, dev__sev_dash_guest="")
    tree = Kernel(root, "sev_guest", snp_report, b"")
    assert kinds_of(make(["snp"], no_tpm, ground(root, tree, ioctl=driver))) == ["SnpPart"]
    assert driver.calls == []
    tree.provider = ""
    assert kinds_of(make(["snp"], no_tpm, ground(root, tree, ioctl=driver))) == ["SnpPart"]
    assert len(driver.calls) == 1
    tree.provider = "tdx_guest"
    with pytest.raises(UsageError, match="tee_other"):
        make(["snp"], no_tpm, ground(root, tree, ioctl=driver))


def test_what_is_named_and_not_there_is_refused(tmp_path: Path) -> None:
    """Never something else in its place."""
    for kind in ("tdx", "snp", "sgx"):
        with pytest.raises(Unreachable, match="tee_unavailable"):
            make([kind], no_tpm, bare(tmp_path))
    made = make(["tdx", "gpu"], no_tpm, tdx_guest(tmp_path))
    with pytest.raises(PerunError, match="gpu_unavailable"):
        made.collect(BINDING)


def test_gpus_are_asked_by_nvattest_where_python_has_no_nvml(tmp_path: Path) -> None:
    """Switches too, where the machine has any."""
    program = FakeNvattest(gpu=1, nvswitch=2)
    tdx_guest(tmp_path)
    tree = Kernel(tmp_path, "tdx_guest")
    seen: dict[str, Any] = {"run": program, "which": lambda name: f"/usr/bin/{name}"}
    assert kinds_of(make(["tdx", "gpu"], no_tpm, ground(tmp_path, tree, **seen))) == ["TdxPart", "GpuPart"]
    write(tmp_path, dev__nvidia_dash_nvswitchctl="")
    parts = make(["tdx", "gpu"], no_tpm, ground(tmp_path, tree, nvml=FakeNvml, **seen)).collect(BINDING).parts
    assert [part.device for part in parts if isinstance(part, GpuPart)] == ["gpu", "switch", "switch"]


@pytest.mark.parametrize(
    "which",
    [
        {},
        {"tcti": "x", "simulated_machine": True},
        {"attester": ["tdx"], "simulated_machine": True},
        {"attester": ["gpu"]},
        {"attester": ["tdx", "snp"]},
        {"attester": ["auto", "gpu"]},
        {"attester": ["auto"], "tcti": "x"},
        {"attester": ["nitro"]},
        {"attester": ["azure", "tpm"]},
        {"attester": ["azure", "snp"]},
    ],
)
def test_what_makes_no_machine_is_said_at_once(which: dict[str, Any], tmp_path: Path) -> None:
    """Nothing, two things, two TEEs, a GPU alone, auto and something, an unknown kind."""
    with pytest.raises(ValueError, match=r"machine|TEE|auto|kind"):
        operators.machine(tmp_path, **which)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_from_python_is_seen_through_the_ground_that_is_handed_in(tmp_path: Path) -> None:
    """The face that the command line uses too."""
    for machine, kind, part in ((tdx_guest, "tdx", TdxPart), (snp_guest, "snp", SnpPart), (enclave, "sgx", SgxPart)):
        made = operators.machine(tmp_path / "agent", attester=[kind], ground=machine(tmp_path / kind))
        assert isinstance(made.collect(BINDING).parts[0], part)
        assert made.machine == ""
    assert operators.machine_kinds("x", [], False) == ("tpm",)
    assert operators.machine_kinds("x", ["tdx", "gpu"], False) == ("tpm", "tdx", "gpu")
    assert operators.machine_kinds(None, ["tpm"], False) == ("tpm",)
    assert operators.doctor(tdx_guest(tmp_path / "again")).roots


def test_a_machine_of_azures_is_known_by_its_board_and_its_tpm(tmp_path: Path) -> None:
    """A confidential VM's TPM holds a report; that of another machine there is a TPM like others. GPUs go beside it."""
    root = write(tmp_path, dev__tpmrm0="", dev__nvidiactl="", sys__class__dmi__id__chassis_asset_tag=AZURE)
    plain = ground(root, behind=lambda: False)
    behind = ground(root, behind=lambda: True, nvml=FakeNvml)
    assert present(plain) == ("tpm",)
    assert present(behind) == ("azure", "gpu")
    of_tee = TeeAttester(TsmReports(Kernel(tmp_path / "tree", "tdx_guest")))

    def azure() -> Any:
        return of_tee

    assert make(["azure"], no_tpm, plain, azure) is of_tee
    assert kinds_of(make(["auto"], no_tpm, behind, azure)) == ["TdxPart", "GpuPart"]
    with pytest.raises(ValueError, match="not made here"):
        make(["azure"], no_tpm, plain)
    assert operators.machine_kinds("x", ["azure"], False) == ("azure",)


@pytest.mark.swtpm
def test_a_tpm_that_is_not_azures_is_refused_as_such(machine: SimulatedMachine, tmp_path: Path) -> None:
    """Named by the operator: no report in it."""
    with pytest.raises(Unreachable, match="tee_unavailable"):
        operators.machine(tmp_path, tcti=machine.tcti, attester=["azure"], ima_log=machine.ima_log)


def test_gramine_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    """A folder where the file should be."""
    (tmp_path / "dev/attestation/attestation_type").mkdir(parents=True)
    assert present(ground(tmp_path)) == ()
    assert present(ground(tmp_path / "b", GramineTree(tmp_path / "b", "none"))) == ()
