"""Trust in a manager: what is believed, and what is not, before anything is pinned."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from client.test_pin import issue, pem
from perunml.api.pin import spki_digest
from perunml.api.trust import Activated, Activation, Attestation, RootCustody, activation_answer, manager_binding
from perunml.attesters.simulated import SimulatedAttester
from perunml.client.asking import Shown
from perunml.client.home import Home
from perunml.client.profile import ManagerProfile
from perunml.client.trust import trust, trust_and_pin
from perunml.testing.forge import ForgedTpm
from perunml.wire.digests import digest
from perunml.wire.errors import EvidenceRefusal, PerunError, UsageError
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey

URL = "https://manager.example:7443"
BOUND = ("identity", "intake", "tls", "host_ca", "machine")
SIMULATED = b"{apiVersion: perunml/v1, kind: ManagerProfile, profile: {profile: simulated}}"


@dataclass
class Manager:
    """Answers attestation requests with real evidence over its keys; `lies` replaces what it then says."""

    identity: SigningKey = field(default_factory=SigningKey.generate)
    intake: HpkePrivateKey = field(default_factory=HpkePrivateKey.generate)
    attester: Any = field(default_factory=lambda: SimulatedAttester.of(SigningKey.generate()))
    certificate: str = field(default_factory=lambda: pem(issue("manager")[1]))
    lies: dict[str, Any] = field(default_factory=dict)
    nonce: bytes | None = None
    peer: str = ""
    custody: Any = "passphrase"
    pcrs: tuple[int, ...] = ()
    hidden: bool = False

    def __call__(self, url: str, nonce: bytes) -> Shown:
        said = {
            "identity": self.identity.public.text,
            "intake": self.intake.public.text,
            "tls": spki_digest(self.certificate),
            "certificate": self.certificate,
            "host_ca": digest(b"host ca"),
            "machine": self.attester.machine,
        }
        custody = RootCustody(kind=self.custody, pcrs=list(self.pcrs))
        bound = manager_binding(nonce=self.nonce or nonce, custody=custody, **{k: said[k] for k in BOUND})
        evidence = self.attester.collect(bound).as_json()
        tpm = self.attester.enrolment() if isinstance(self.attester, ForgedTpm) and not self.hidden else None
        told = {
            **said,
            "custody": custody.model_dump(),
            "tpm": tpm,
            "collateral": None,
            "version": "0.1.0",
            "profile": "simulated",
            "evidence": evidence,
            **self.lies,
        }
        return Shown(Attestation.model_validate(told), self.peer or spki_digest(self.certificate))

    def activate(self, url: str, body: Activation) -> tuple[Activated, str]:
        """As the manager's route."""
        secret = self.attester.activate(body.credential, body.secret)
        answer = activation_answer(secret, self.identity.public.text)
        return Activated(answer=answer), self.peer or spki_digest(self.certificate)


def refusal(manager: Manager, profile: bytes = SIMULATED) -> str:
    with pytest.raises(EvidenceRefusal) as caught:
        trust(URL, ManagerProfile.load(profile), fetch=manager)
    return caught.value.code


def test_pins_what_the_evidence_vouches_for() -> None:
    """All keys of the pin are those under the evidence, and simulated is said."""
    manager = Manager()
    pin = trust(URL + "/", ManagerProfile.load(SIMULATED), fetch=manager, now=0)
    assert (pin.url, pin.identity, pin.intake) == (URL, manager.identity.public.text, manager.intake.public.text)
    assert (pin.profile, pin.simulated, pin.pinned) == ("simulated", True, "1970-01-01T00:00:00Z")
    assert pin.machine == manager.attester.machine


def test_simulated_is_not_enough_unless_said() -> None:
    """T18: a profile that does not literally say `simulated` admits none."""
    profile = "{profile: tee, sgx: {mr_enclave: ['0000000000000000000000000000000000000000000000000000000000000000']}}"
    document = f"{{apiVersion: perunml/v1, kind: ManagerProfile, profile: {profile}}}"
    assert refusal(Manager(), document.encode()) in ("simulated_not_allowed", "wrong_profile")


def test_any_of_several_profiles() -> None:
    """One alternative that fits will do."""
    document = "{profile: {any_of: [{profile: tee, sgx: {mr_enclave: ['0000000000000000000000000000000000000000000000000000000000000000']}}, {profile: simulated}]}, apiVersion: perunml/v1, kind: ManagerProfile}"
    assert trust(URL, ManagerProfile.load(document.encode()), fetch=Manager()).simulated


def test_a_relay_has_another_tls_key() -> None:
    """C1: true evidence over somebody else's connection."""
    assert refusal(Manager(peer=digest(b"the relay's key"))) == "channel_mismatch"


def test_a_certificate_with_another_key() -> None:
    """C3: the certificate to be pinned must hold the attested key."""
    other = pem(issue("other")[1])
    assert refusal(Manager(lies={"certificate": other})) == "channel_mismatch"
    lying = Manager(lies={"certificate": other, "tls": spki_digest(other)}, peer=spki_digest(other))
    assert refusal(lying) == "binding_mismatch"


@pytest.mark.parametrize("member", ["identity", "intake", "host_ca", "machine"])
def test_a_key_that_the_evidence_does_not_cover(member: str) -> None:
    """C2: any other key in its place is found out."""
    other = {
        "identity": SigningKey.generate().public.text,
        "intake": HpkePrivateKey.generate().public.text,
        "host_ca": digest(b"another"),
        "machine": SimulatedAttester.of(SigningKey.generate()).machine,
    }
    code = refusal(Manager(lies={member: other[member]}))
    assert code == ("wrong_manager" if member == "machine" else "binding_mismatch")


def test_old_evidence() -> None:
    """N2: evidence for an earlier nonce is not fresh."""
    assert refusal(Manager(nonce=bytes(32))) == "binding_mismatch"


def test_another_manager_than_the_profile_names() -> None:
    """A profile with a key admits that identity alone."""
    manager = Manager()
    named = f"{{apiVersion: perunml/v1, kind: ManagerProfile, key: '{SigningKey.generate().public.text}', profile: {{profile: simulated}}}}"
    assert refusal(manager, named.encode()) == "wrong_manager"
    right = f"{{apiVersion: perunml/v1, kind: ManagerProfile, key: '{manager.identity.public.text}', profile: {{profile: simulated}}}}"
    trust(URL, ManagerProfile.load(right.encode()), fetch=manager)


def test_a_tpm_that_nobody_enrolled() -> None:
    """A quote under a key that no one vouched for proves nothing about a manager."""
    manager = Manager(attester=ForgedTpm(), hidden=True)
    assert refusal(manager) == "wrong_manager"
    assert refusal(replace(manager, lies={"machine": ""})) == "wrong_profile"


def test_an_agreement_is_a_profile_too() -> None:
    """The parties' own document says what its manager must prove."""
    from agreements.sample import document

    written = document()
    manager = Manager()
    written["manager"]["key"] = manager.identity.public.text
    assert trust(URL, ManagerProfile.load(json.dumps(written).encode()), fetch=manager).simulated
    assert refusal(Manager(), json.dumps(written).encode()) == "wrong_manager"


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b"{kind: ManagerProfile, profile: {profile: simulated}}",
        b"{apiVersion: perunml/v1, kind: ManagerProfile}",
        b"{apiVersion: perunml/v1, kind: ManagerProfile, profile: {profile: simulate}}",
        b"{apiVersion: perunml/v1, kind: ManagerProfile, profile: {any_of: []}}",
        b"{apiVersion: perunml/v1, kind: ManagerProfile, key: 'ed25519:AA', profile: {profile: simulated}}",
        b"{apiVersion: perunml/v1, kind: ManagerProfile, profle: {profile: simulated}}",
        b"{apiVersion: perunml/v1, kind: Pin, profile: {profile: simulated}}",
    ],
)
def test_what_is_no_profile(document: bytes) -> None:
    """Missing is not empty: each is refused as malformed."""
    with pytest.raises(UsageError):
        ManagerProfile.load(document)


@pytest.mark.parametrize(
    "url", ["http://a:1", "https://", "https://a:1/path", "https://a:1/?q", "https://me@a:1", "a:1"]
)
def test_what_is_no_address(url: str) -> None:
    """Only https://host:port; nothing is fetched from anything else."""
    with pytest.raises(UsageError):
        trust(url, ManagerProfile.load(SIMULATED), fetch=Manager())


def test_a_changed_manager_is_a_new_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same identity may renew its TLS key; another identity at the same address is refused."""
    home, profile = Home(tmp_path), ManagerProfile.load(SIMULATED)
    manager = Manager()

    def at(manager: Manager) -> None:
        monkeypatch.setattr("perunml.client.trust.fetch_attestation", manager)

    at(manager)
    first = trust_and_pin(home, URL, profile)
    assert home.pin() == first
    at(replace(manager, certificate=pem(issue("manager")[1])))
    second = trust_and_pin(home, URL, profile)
    assert second.tls != first.tls
    at(Manager())
    with pytest.raises(PerunError) as caught:
        trust_and_pin(home, URL, profile)
    assert caught.value.code == "wrong_manager"
    assert home.pin() == second
