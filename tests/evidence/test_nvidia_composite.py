"""GPUs beside a TEE, judged as one machine: their nonce is inside the TEE's binding, and an agreement may pin them."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import TypeAdapter

from evidence.judging import BINDING, NOW
from evidence.nvidia_forged import NODE, vendor
from perunml.agreements.profiles import HostRole
from perunml.evidence.binding import gpu_nonce, tee_report_data
from perunml.evidence.bundle import Bundle
from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.judge import Judgement, judge
from perunml.evidence.parts import GpuPart, SnpPart
from perunml.evidence.policy import Machine
from perunml.release.hosts import good_enough
from perunml.release.policy import policy_for
from perunml.testing.nvidia import ForgedDevice
from perunml.testing.snp import AmdCa, ForgedChip

SNP = {"measurement": ["11" * 48], "min_tcb": {"bootloader": 4}, "products": ["Milan"]}
OTHER_BINDING = b"\x5b" * 48


@cache
def chip() -> ForgedChip:
    return ForgedChip(AmdCa())


@cache
def node() -> list[ForgedDevice]:
    return vendor().node()


def role(**changes: Any) -> Any:
    written = {"profile": "simulated", "imitates": "gpu-cc", "snp": SNP, "gpu": NODE, **changes}
    return TypeAdapter(HostRole).validate_python(written)


def endorsed(devices: list[ForgedDevice]) -> Endorsements:
    gpus = vendor().endorsements(devices)
    made = Collateral(
        certificates=tuple(chip().chain),
        crls=(chip().ca.revocations(),),
        rims=gpus.collateral.rims,
        ocsp=gpus.collateral.ocsp,
    )
    return Endorsements(made, (chip().ca.root, *gpus.simulated_roots))


def parts(devices: list[ForgedDevice], binding: bytes = BINDING) -> list[GpuPart]:
    return [device.report(gpu_nonce(binding)) for device in devices]


def judged(gpus: list[GpuPart], asked: Any, known: Endorsements | None = None) -> Judgement:
    bundle = Bundle((SnpPart(chip().report(tee_report_data(BINDING, ""))), *gpus))
    (policy,) = policy_for(asked, {})
    return judge(
        bundle,
        machine=Machine("", False),
        policy=policy,
        binding=BINDING,
        now=NOW,
        endorsements=known or endorsed(node()),
    )


def codes(found: Judgement) -> list[str]:
    return [reason.code for reason in found.appraisal.reasons]


def test_a_confidential_vm_and_its_gpus_are_accepted_together() -> None:
    """Simulated, imitating gpu-cc; every device's identity is proven, and what nothing proves is said."""
    found = judged(parts(node()), role()).appraisal
    assert (found.reasons, found.profile, found.imitates) == ((), "simulated", "gpu-cc")
    assert sum(name.startswith("gpu:sha256:") for name in found.identities) == 3
    told: Any = found.claims["gpus"]
    assert told["bound_to_host"] == "not bound to host"
    assert list(good_enough(role(), "trainer", found)) == []


def test_g1_gpus_that_sign_another_exchange_are_refused() -> None:
    """A relayed or an older report: its nonce is not inside this binding."""
    gpus = parts(node())
    gpus[0] = node()[0].report(gpu_nonce(OTHER_BINDING))
    assert codes(judged(gpus, role())) == ["binding_mismatch"]


def test_g7_t22_gpus_that_are_demanded_and_missing_are_refused() -> None:
    """None at all, and one less."""
    assert codes(judged([], role())) == ["part_missing"]
    assert "gpu_count" in codes(judged(parts(node())[1:], role()))


def test_g2_a_gpu_of_another_host_is_refused_where_gpus_are_pinned() -> None:
    """It is genuine, signs our nonce and fits the rules: only the pin tells."""
    one = {"architectures": ["hopper"]}
    own, relayed = vendor().gpu(1), vendor().gpu(2)
    known = endorsed([own, relayed])
    first = judged(parts([own]), role(gpu=one), known).appraisal
    assert first.reasons == ()
    pinned = role(gpu=one, machines=["+".join(first.identities)])
    assert list(good_enough(pinned, "trainer", judged(parts([own]), pinned, known).appraisal)) == []
    other = judged(parts([relayed]), pinned, known).appraisal
    assert [reason.code for reason in good_enough(pinned, "trainer", other)] == ["machine_not_agreed"]


def test_g2_gpus_are_of_this_host_only_where_the_agreement_pins_them() -> None:
    """G2: else the result says that they are not bound to the host; some of them, or beside another chip, do not count."""
    devices = node()
    plain = judged(parts(devices), role()).appraisal
    gpus = [name for name in plain.identities if name.startswith("gpu:")]
    own = next(name for name in plain.identities if name.startswith("chip:"))

    def bound(machine: str) -> str:
        asked = role(machines=[machine])
        claims: Any = judged(parts(devices), asked).appraisal.claims
        return str(claims["gpus"]["bound_to_host"])

    assert plain.claims["gpus"]["bound_to_host"] == "not bound to host"  # type: ignore[index,call-overload]
    assert bound("+".join([own, *gpus])) == "pinned with this machine in the agreement"
    for machine in (own, "+".join([own, *gpus[1:]]), "+".join(gpus), "+".join(["chip:sha256:" + "0" * 64, *gpus])):
        assert bound(machine) == "not bound to host"
