"""`host doctor`: what of this machine fits a host's job, what each root of trust can prove here, and which profiles it could meet;
for whatever is missing the one cure. Looks, changes nothing, and takes the machine's own word for all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perunml.attesters.detect import Ground
from perunml.attesters.doctor_gpu import nvidia
from perunml.attesters.doctor_machine import EVENT_LOG, MEASURED, machine_findings
from perunml.attesters.doctor_tee import OUTSIDE, sgx, snp, tdx
from perunml.attesters.doctor_tpm import cloud, ima, tpm
from perunml.attesters.findings import Finding, Profile, Root

TEES = ("TDX", "SEV-SNP", "SGX")


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was seen of a machine."""

    findings: tuple[Finding, ...]
    roots: tuple[Root, ...]
    profiles: tuple[Profile, ...]

    @property
    def ok(self) -> bool:
        """Whether it can take jobs and prove itself by more than a bare key."""
        able = any(profile.possible for profile in self.profiles if profile.name != "simulated")
        return able and all(found.ok for found in self.findings if found.need == "job")

    def as_json(self) -> dict[str, Any]:
        told = {name: [each.as_json() for each in getattr(self, name)] for name in ("findings", "roots", "profiles")}
        return {"ok": self.ok, **told}


def doctor(root: Path = Path("/")) -> list[Finding]:
    """Every finding about the machine whose file system begins at `root`."""
    return machine_findings(root)


def examine(ground: Ground | None = None) -> Examination:
    """The machine that is seen through `ground`."""
    ground = ground or Ground()
    findings = tuple(machine_findings(ground.root))
    roots = (
        tpm(ground.root),
        ima(ground.root),
        tdx(ground),
        snp(ground),
        sgx(ground),
        nvidia(ground),
        cloud(ground.root),
    )
    return Examination(findings, roots, _profiles(findings, {root.name: root for root in roots}))


def _profiles(findings: tuple[Finding, ...], roots: dict[str, Root]) -> tuple[Profile, ...]:
    log = next(found for found in findings if found.name == "boot log")
    measured = [(roots["TPM"].proves, roots["TPM"].fix), (log.ok, log.fix), (roots["IMA"].proves, roots["IMA"].fix)]
    tees = [name for name in TEES if roots[name].proves]
    vms = [name for name in tees if name != "SGX"]
    tee = (bool(tees), _first_tee_fix(roots))
    gpu = (roots["NVIDIA CC"].proves, roots["NVIDIA CC"].fix)
    return (
        _profile("measured", measured, ("TPM", "IMA")),
        _profile("tee", [tee], tuple(tees)),
        _profile("gpu-cc", [(bool(vms), tee[1] or roots["TDX"].fix), gpu], (*vms, "NVIDIA CC")),
        Profile("simulated", True, (), ""),
    )


def _profile(name: str, needs: list[tuple[bool, str]], by: tuple[str, ...]) -> Profile:
    fix = next((fix for met, fix in needs if not met), "")
    return Profile(name, not fix, by if not fix else (), fix)


def _first_tee_fix(roots: dict[str, Root]) -> str:
    """Of the TEE that the machine is in, where it is in one; else that it should be."""
    inside = [roots[name] for name in TEES if not roots[name].proves and roots[name].missing != OUTSIDE]
    return "" if any(roots[name].proves for name in TEES) else (inside or [roots["TDX"]])[0].fix


__all__ = ["EVENT_LOG", "MEASURED", "Examination", "Finding", "Profile", "Root", "doctor", "examine"]
