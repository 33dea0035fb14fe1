"""`host doctor` on ten machines: what each can prove, what it lacks, the one fix, and the profiles that it could meet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from attesters.devices import FakeNvml
from attesters.kernel import Kernel
from attesters.machines import (
    AZURE,
    MOUNTS,
    NEW,
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
from perunml.attesters.detect import Ground
from perunml.attesters.doctor import Examination, examine
from perunml.cli.host import examination_lines

Machine = Callable[[Path], Ground]
ALL = ("TPM", "IMA", "TDX", "SEV-SNP", "SGX", "NVIDIA CC", "cloud vTPM")

MACHINES: dict[str, tuple[Machine, set[str], set[str]]] = {
    # what can be proven, the profiles besides simulated
    "bare": (bare, set(), set()),
    "tpm server": (tpm_server, {"TPM", "IMA"}, {"measured"}),
    "tdx guest": (tdx_guest, {"TDX"}, {"tee"}),
    "old tdx guest": (old_tdx_guest, set(), set()),
    "snp guest": (snp_guest, {"SEV-SNP"}, {"tee"}),
    "old snp guest": (old_snp_guest, {"SEV-SNP"}, {"tee"}),
    "enclave": (enclave, {"SGX"}, {"tee"}),
    "tdx guest with an H100": (gpu(tdx_guest), {"TDX", "NVIDIA CC"}, {"tee", "gpu-cc"}),
    "tdx guest with an H100, CC off": (gpu(tdx_guest, cc=0), {"TDX"}, {"tee"}),
    "tdx guest with an H100, devtools": (gpu(tdx_guest, devtools=1), {"TDX"}, {"tee"}),
    "tdx guest with an H100, not ready": (gpu(tdx_guest, ready=0), {"TDX"}, {"tee"}),
    "server with an H100, CC off": (gpu(tpm_server, cc=0), {"TPM", "IMA"}, {"measured"}),
    "enclave with an H100": (gpu(enclave), {"SGX", "NVIDIA CC"}, {"tee"}),
    "bare with an H100": (gpu(bare), {"NVIDIA CC"}, set()),
}


def root_of(found: Examination, name: str) -> tuple[str, str, str]:
    (root,) = (root for root in found.roots if root.name == name)
    return root.seen, root.missing, root.fix


def fix_of(found: Examination, profile: str) -> str:
    (each,) = (each for each in found.profiles if each.name == profile)
    return each.fix


@pytest.mark.parametrize("name", MACHINES)
def test_each_machine_is_told_what_it_can_prove(name: str, tmp_path: Path) -> None:
    """Every root of trust has its line; one that proves nothing says what is missing and one fix, one that does says neither."""
    machine, proven, profiles = MACHINES[name]
    found = examine(machine(tmp_path))
    assert tuple(root.name for root in found.roots) == ALL
    assert {root.name for root in found.roots if root.proves} == proven
    assert {each.name for each in found.profiles if each.possible} == profiles | {"simulated"}
    for root in found.roots:
        assert root.seen
        assert bool(root.missing) is bool(root.fix) is not root.proves
    for profile in found.profiles:
        assert bool(profile.fix) is not profile.possible
        assert set(profile.by) <= proven
    assert json.loads(json.dumps(found.as_json()))["ok"] is found.ok


@pytest.mark.parametrize("name", MACHINES)
def test_looking_changes_nothing(name: str, tmp_path: Path) -> None:
    """No request for a report is made, no file is written."""
    machine, _, _ = MACHINES[name]
    made = machine(tmp_path)
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    examine(made)
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
    assert not (isinstance(made.tree, Kernel) and made.tree.made)


def test_a_bare_machine_could_only_be_simulated(tmp_path: Path) -> None:
    """And is not well."""
    found = examine(bare(tmp_path))
    assert not found.ok
    assert fix_of(found, "measured").startswith("Enable the TPM 2.0")
    assert "TDX guest" in fix_of(found, "tee")


def test_a_trust_domain_is_told_how_to_get_its_interface(tmp_path: Path) -> None:
    """An old kernel, configfs that is not mounted, a driver that is not loaded: one fix each, and the profile's is the same."""
    old = examine(old_tdx_guest(tmp_path))
    assert root_of(old, "TDX")[2] == fix_of(old, "tee") == fix_of(old, "gpu-cc") == "Boot a kernel 6.7 or newer."
    write(tmp_path, proc__sys__kernel__osrelease=NEW)
    assert root_of(examine(ground(tmp_path)), "TDX")[2] == "modprobe tdx-guest"
    write(tmp_path, proc__mounts="")
    assert root_of(examine(ground(tmp_path)), "TDX")[2] == "mount -t configfs none /sys/kernel/config"


def test_a_trust_domain_is_told_whether_its_log_goes_along(tmp_path: Path) -> None:
    """Without CCEL, RTMRs can only be agreed on by value."""
    made = tdx_guest(tmp_path)
    assert "with its event log" in root_of(examine(made), "TDX")[0]
    (tmp_path / "sys/firmware/acpi/tables/data/CCEL").unlink()
    assert "RTMRs by value only" in root_of(examine(made), "TDX")[0]


def test_an_snp_guest_is_told_which_interface_it_has(tmp_path: Path) -> None:
    """configfs, or the device; without either the driver is loaded or the kernel renewed."""
    assert root_of(examine(snp_guest(tmp_path / "a")), "SEV-SNP")[0].endswith("by configfs-tsm")
    assert root_of(examine(old_snp_guest(tmp_path / "b")), "SEV-SNP")[0].endswith("by /dev/sev-guest")
    root = write(tmp_path / "c", sys__devices__platform__sev_dash_guest__x="", proc__mounts=MOUNTS)
    assert root_of(examine(ground(root)), "SEV-SNP")[2] == "modprobe sev-guest"
    write(root, proc__sys__kernel__osrelease="5.15.0\n")
    assert root_of(examine(ground(root)), "SEV-SNP")[2] == "Boot a kernel 6.7 or newer."


def test_sgx_is_told_how_to_become_an_enclave(tmp_path: Path) -> None:
    """A machine with SGX and no Gramine; Gramine whose manifest does not attest."""
    fix = root_of(examine(ground(write(tmp_path / "a", dev__sgx_enclave=""))), "SGX")[2]
    assert "gramine-sgx perunml host run" in fix
    assert fix_of(examine(ground(tmp_path / "a")), "tee") == fix
    none = ground(write(tmp_path / "b", dev__attestation__attestation_type="none"))
    assert 'sgx.remote_attestation = "dcap"' in root_of(examine(none), "SGX")[2]


def test_a_gpu_is_told_the_way_into_confidential_mode(tmp_path: Path) -> None:
    """Off, in development mode, not ready: one command each."""

    def told(**state: int) -> tuple[str, str, str]:
        return root_of(examine(gpu(tdx_guest, **state)(tmp_path)), "NVIDIA CC")

    assert "--set-cc-mode=on" in told(cc=0)[2]
    assert "not devtools" in told(devtools=1)[2]
    assert told(ready=0)[2] == "nvidia-smi conf-compute -srs 1"
    assert told(count=2)[0] == "2 GPUs in confidential mode"
    assert told(count=0)[1] == "a GPU"


def test_a_gpu_that_cannot_be_asked_is_told_what_to_install(tmp_path: Path) -> None:
    """No driver, no NVML for Python, a library that does not answer, switches without nvattest."""
    pci = {"sys__bus__pci__devices__a__vendor": "0x10de\n", "sys__bus__pci__devices__a__class": "0x030200\n"}
    assert root_of(examine(ground(write(tmp_path / "a", **pci))), "NVIDIA CC")[1] == "NVIDIA's driver"
    root = write(tmp_path / "b", dev__nvidiactl="")
    assert root_of(examine(ground(root)), "NVIDIA CC")[2] == "pip install nvidia-ml-py"
    by_program = examine(ground(root, which=lambda name: f"/usr/bin/{name}"))
    assert root_of(by_program, "NVIDIA CC")[0].startswith("nvattest can ask")
    library = FakeNvml()
    library.installed = False
    assert "modprobe nvidia" in root_of(examine(ground(root, nvml=lambda: library)), "NVIDIA CC")[2]
    write(root, dev__nvidia_dash_nvswitchctl="")
    switched = examine(ground(root, nvml=FakeNvml))
    assert "nvattest" in root_of(switched, "NVIDIA CC")[2]


def test_a_clouds_machine_is_known_by_its_board(tmp_path: Path) -> None:
    """With a virtual TPM, and without."""
    azure = {"sys__class__dmi__id__chassis_asset_tag": AZURE}
    root = write(tmp_path / "a", dev__tpmrm0="", **azure)
    assert root_of(examine(ground(root)), "cloud vTPM") == ("Azure's virtual TPM", "", "")
    google = {"sys__class__dmi__id__product_name": "Google Compute Engine\n"}
    told = root_of(examine(ground(write(tmp_path / "b", **google))), "cloud vTPM")
    assert told[0] == "Google Compute Engine, without a virtual TPM"
    assert "shielded VM" in told[2]


def test_a_tpm_of_the_old_version_is_none(tmp_path: Path) -> None:
    """1.2 signs other structures."""
    made = tpm_server(tmp_path)
    write(tmp_path, sys__class__tpm__tpm0__tpm_version_major="1\n")
    found = examine(made)
    assert root_of(found, "TPM")[1] == "a TPM 2.0"
    assert not next(each for each in found.profiles if each.name == "measured").possible


@pytest.mark.parametrize(
    ("lost", "missing"),
    [
        ("sys/kernel/security/ima/binary_runtime_measurements", "list of measured files"),
        ("proc/cmdline", "policy that is in force"),
        ("dev/tpmrm0", "a TPM that the measurements go into"),
    ],
)
def test_ima_needs_its_log_its_policy_and_a_tpm(lost: str, missing: str, tmp_path: Path) -> None:
    """Each alone missing is told."""
    made = tpm_server(tmp_path)
    (tmp_path / lost).unlink()
    assert missing in root_of(examine(made), "IMA")[1]


def test_a_server_without_its_boot_log_is_not_measured(tmp_path: Path) -> None:
    """The profile needs more than the roots of trust."""
    made = tpm_server(tmp_path)
    (tmp_path / "sys/kernel/security/tpm0/binary_bios_measurements").unlink()
    assert fix_of(examine(made), "measured").startswith("Turn on measured boot")


@pytest.mark.parametrize("name", MACHINES)
def test_it_reads_as_sentences(name: str, tmp_path: Path) -> None:
    """Four blocks, each root and profile with yes or no; the profiles come last."""
    machine, proven, _ = MACHINES[name]
    text = examination_lines(examine(machine(tmp_path)))
    assert text[0] == "For any job"
    assert text.count("") == 3
    lines = [line for line in text if line.startswith(ALL)]
    assert len(lines) == len(ALL)
    assert sum(": " in line and " yes: " in f" {line}" for line in lines) == len(proven)
    assert text[-1].startswith("simulated")
