"""Attacks on which machine a manager proves to run on."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

from client.test_pin import issue, pem
from client.test_trust import URL, Manager
from perunml.api.pin import spki_digest
from perunml.attesters.tee import TeeAttester
from perunml.client.home import Home
from perunml.client.profile import ManagerProfile
from perunml.client.trust import Given, Trusted, examine, keep
from perunml.evidence.bundle import Bundle
from perunml.evidence.parts import SnpPart, TeePart
from perunml.evidence.tpm.chain import Trust
from perunml.testing.dcap import NOW
from perunml.testing.forge import ForgedTpm, Quoting
from perunml.testing.snp import AmdCa, ForgedChip
from perunml.wire.errors import PerunError, UsageError

KEY = "ed25519:the-key-of-this-tee-alone"
PCRS = (0, 1, 2, 3, 4, 5, 6, 7, 9, 11)
SNP = {"measurement": ["11" * 48], "products": ["Milan"], "min_tcb": {"bootloader": 4}}


@cache
def chip() -> ForgedChip:
    return ForgedChip(AmdCa())


class Both(ForgedTpm):
    """A TPM and a TEE that shows its key in PCR 15."""

    def __init__(self) -> None:
        super().__init__()
        self.extend(15, KEY.encode())

    def collect(self, binding: bytes) -> Bundle:
        quote = self.quote(binding, Quoting(banks=[("sha256", range(16))]))
        tee = TeeAttester(Guest(), KEY).collect(binding)
        return Bundle((quote, *tee.parts))


class Guest:
    """A `TeeSource`."""

    kind: Any = "snp"

    def report(self, report_data: bytes) -> TeePart:
        return SnpPart(chip().report(report_data))


@cache
def both() -> Both:
    return Both()


def beside(machines: list[str], tee_machines: list[str] | None = None) -> ManagerProfile:
    """`all_of` with the TPM named where a measured profile names it: in its own part."""
    baseline = both().boot_baseline()
    measured = {"profile": "measured", "baseline": baseline.digest, "machines": machines}
    tee: dict[str, Any] = {"profile": "simulated", "imitates": "tee", "snp": SNP}
    profile = {"all_of": [measured, tee], "binder": "pcr"}
    document = {"apiVersion": "perunml/v1", "kind": "ManagerProfile", "profile": profile}
    return ManagerProfile.load(json.dumps(document).encode(), baselines=[baseline])


def shown(wanted: ManagerProfile) -> Trusted:
    collateral = chip().endorsements().collateral.as_json()
    manager = Manager(attester=both(), custody="tpm", pcrs=PCRS, lies={"collateral": collateral})
    given = Given(Trust(vendor=(both().ca.root,)), simulated_roots=(chip().ca.root,))
    return examine(URL, wanted, given=given, fetch=manager, activate=manager.activate, now=NOW)


def test_t21_a_machine_that_is_named_inside_all_of() -> None:
    """T21: the parties name the TPM in the measured part of `all_of`; a manager beside another TPM is not theirs."""
    assert both().machine in shown(beside([both().machine])).identities
    with pytest.raises(PerunError) as caught:
        shown(beside(["ek:sha256:" + "0" * 64]))
    assert {reason.code for reason in caught.value.reasons} == {"wrong_machine"}


@pytest.mark.parametrize("old", ["06072a8648ce3d0201", "06082a8648ce3d030107", "a003020102"])
def test_d9_a_certificate_of_a_kind_that_is_not_known(old: str) -> None:
    """D9: another kind of key, another curve, another version: whoever shows it is refused in words."""
    der = load_pem_x509_certificate(pem(issue("manager")[1]).encode()).public_bytes(Encoding.DER)
    whole = bytes.fromhex(old)
    assert whole in der
    with pytest.raises(UsageError):
        spki_digest(der.replace(whole, whole[:-1] + b"\x6e", 1))


def test_a_manager_proves_less_than_it_did(tmp_path: Path) -> None:
    """What it proved is pinned: more is welcome, less or another machine is a new decision."""
    found = shown(beside([both().machine]))
    home, real = Home(tmp_path), {"profile": "measured", "simulated": False}
    assert found.pin.simulated
    keep(home, found)
    better = replace(found, pin=found.pin.model_copy(update=real))
    keep(home, better)
    for worse in (found, replace(better, pin=better.pin.model_copy(update={"machine": "ek:sha256:" + "0" * 64}))):
        with pytest.raises(PerunError) as caught:
            keep(home, worse)
        assert {reason.code for reason in caught.value.reasons} == {"manager_changed"}
