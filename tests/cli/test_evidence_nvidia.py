"""`perunml evidence check nvidia`: exit codes 0, 11 and 2, profiles as people write them, captured evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli.kit import Party
from evidence.nvidia_files import HOPPER_NONCE, NODE_NONCE, NVIDIA
from evidence.vectors import needs_vectors
from perunml.testing.nvidia import ForgedNvidia
from perunml.testing.nvidia_pki import answer

NONCE = b"\x4e" * 32
AT = ("--at", "2027-01-15T08:00:00Z")


def check(party: Party, *words: object) -> tuple[int, Any]:
    """The exit code, and stdout's JSON."""
    said = party("-o", "json", "evidence", "check", "nvidia", *words, passphrase=None)
    return said.code, said.json if said.out else None


@pytest.fixture
def forged(tmp_path: Path) -> list[object]:
    """The options for a forged GPU with its manifests and OCSP's answers."""
    vendor = ForgedNvidia()
    gpu = vendor.gpu()
    for folder, files in {"rim": vendor.rims(), "ocsp": [answer(one) for one in vendor.subjects([gpu])]}.items():
        (tmp_path / folder).mkdir()
        for number, data in enumerate(files):
            (tmp_path / folder / str(number)).write_bytes(data)
    (tmp_path / "rim" / "README").write_text("what lies beside manifests is left alone")
    words: list[object] = [*AT, "--nonce", NONCE.hex(), "--rim", tmp_path / "rim", "--ocsp", tmp_path / "ocsp"]
    named = {"report": gpu.report(NONCE).report, "chain": b"".join(gpu.chain)}
    for name, data in named.items():
        (tmp_path / name).write_bytes(data)
        words += [f"--{name}", tmp_path / name]
    for name, root in (("root", vendor.root), ("rim-root", vendor.rim_root)):
        (tmp_path / name).write_bytes(root.der)
        words += ["--simulated-root", tmp_path / name]
    return words


def test_a_gpu_with_and_without_a_profile(nobody: Party, forged: list[object], tmp_path: Path) -> None:
    """Accepted; met by the second alternative; refused by a profile that asks for two."""
    code, said = check(nobody, *forged)
    assert (code, said["accepted"], len(said["claims"]["manifests"])) == (0, True, 3)
    profile = tmp_path / "profile.yaml"
    profile.write_text(
        "apiVersion: perunml/v1\nkind: ManagerProfile\nprofile:\n  any_of:\n"
        "    - {profile: gpu-cc, gpu: {architectures: [blackwell]}}\n"
        "    - {profile: gpu-cc, gpu: {architectures: [hopper], max_age: 2h}}\n"
    )
    assert check(nobody, *forged, "--profile", profile)[0] == 0
    profile.write_text('{"profile": "gpu-cc", "gpu": {"architectures": ["hopper"], "count": 2}}')
    code, said = check(nobody, *forged, "--profile", profile)
    assert (code, [reason["code"] for reason in said["reasons"]]) == (11, ["gpu_count"])
    text = nobody("evidence", "check", "nvidia", *forged, passphrase=None)
    assert "devices 0 architecture" in text.out


@pytest.mark.parametrize(
    "profile",
    [
        "profile: measured\n",
        "gpu: {counts: 2}\n",
        "[1]\n",
        "profile: {profile: {profile: {profile: {profile: {gpu: {}}}}}}\n",
    ],
    ids=["no-gpu", "unknown", "list", "deep"],
)
def test_a_profile_that_says_nothing_of_gpus_is_not_usable(
    nobody: Party, forged: list[object], tmp_path: Path, profile: str
) -> None:
    """The call is wrong, not the evidence."""
    (tmp_path / "profile").write_text(profile)
    assert check(nobody, *forged, "--profile", tmp_path / "profile")[0] == 2


def test_a_nonce_that_is_no_hex_is_not_usable(nobody: Party, forged: list[object]) -> None:
    """As for a TPM."""
    assert check(nobody, *forged, "--nonce", "xyz")[0] == 2


@needs_vectors
def test_captured_evidence(nobody: Party) -> None:
    """NVIDIA's two forms: hex with PEM beside it, JSON of a whole node; another nonce is refused."""
    hopper = ["--report", NVIDIA / "hopperAttestationReport.txt", "--chain", NVIDIA / "hopperCertChain.txt"]
    assert check(nobody, *hopper, "--nonce", HOPPER_NONCE.hex(), "--rim", NVIDIA)[0] == 0
    assert check(nobody, *hopper, "--nonce", NODE_NONCE.hex())[0] == 11
    node = ["--report", NVIDIA / "gpu_evidence.json", "--report", NVIDIA / "switch_evidence.json"]
    code, said = check(nobody, *node, "--nonce", NODE_NONCE.hex())
    assert (code, len(said["claims"]["devices"])) == (0, 12)
