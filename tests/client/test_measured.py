"""A manager on a machine with a TPM: whose TPM, whose key, which state, who keeps its root key. K and C as they concern it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.test_trust import URL, Manager
from perunml.api.trust import Activated, Activation, activation_answer
from perunml.client.asking import Shown
from perunml.client.home import Home
from perunml.client.profile import ManagerProfile, sign_profile
from perunml.client.trust import Given, Trusted, examine, keep
from perunml.evidence.baseline import Baseline
from perunml.evidence.binding import binding
from perunml.evidence.tpm.chain import Trust
from perunml.testing.ca import DevelopmentCa
from perunml.testing.forge import ForgedTpm
from perunml.wire.digests import digest, digest_of
from perunml.wire.dsse import signed
from perunml.wire.errors import EvidenceRefusal, PerunError
from perunml.wire.identity import SigningKey

PCRS = (0, 1, 2, 3, 4, 5, 6, 7, 9, 11)
TPM = ForgedTpm()
BASELINE = TPM.boot_baseline()


def on_tpm(tpm: ForgedTpm = TPM, **more: Any) -> Manager:
    return Manager(attester=tpm, **{"custody": "tpm", "pcrs": PCRS, **more})


def document(baseline: Baseline = BASELINE, machine: str = TPM.machine, **more: Any) -> dict[str, Any]:
    profile = {"profile": "measured", "baseline": baseline.digest, "machines": [machine]}
    return {"apiVersion": "perunml/v1", "kind": "ManagerProfile", "profile": profile, **more}


def profile(baseline: Baseline = BASELINE, machine: str = TPM.machine, **more: Any) -> ManagerProfile:
    return ManagerProfile.load(json.dumps(document(baseline, machine, **more)).encode(), baselines=[baseline])


def asked(manager: Manager, wanted: ManagerProfile | None = None, given: Given | None = None, **how: Any) -> Trusted:
    """The development root stands for a vendor's here: what leads to it is `measured`."""
    given = given or Given(Trust(vendor=(manager.attester.ca.root,)))
    how = {"activate": manager.activate, "fetch": manager, **how}
    return examine(URL, wanted or profile(), given=given, **how)


def codes(manager: Manager, wanted: ManagerProfile | None = None, given: Given | None = None, **how: Any) -> set[str]:
    with pytest.raises(EvidenceRefusal) as caught:
        asked(manager, wanted, given, **how)
    return {reason.code for reason in caught.value.reasons}


def test_a_measured_manager_is_trusted() -> None:
    """EK to a vendor's root, activation, quote, boot log, IMA log, root key in the TPM: all of it, and the pin says it."""
    manager = on_tpm()
    found = asked(manager)
    pin = found.pin
    assert (pin.profile, pin.simulated, pin.machine) == ("measured", False, TPM.machine)
    assert (pin.judged_by, pin.custody) == (BASELINE.digest, "tpm")
    assert found.custody.pcrs == list(PCRS)
    assert found.claims["entries"] == len(TPM.lines)


def test_k2_a_tpm_of_no_known_vendor() -> None:
    """K2: whoever signed the EK certificate is nobody, unless a root is given; a simulated root gives `simulated` (T18)."""
    assert codes(on_tpm(), given=Given()) == {"ek_chain"}
    simulated = Given(Trust(simulated=(TPM.ca.root,)))
    assert codes(on_tpm(), given=simulated) >= {"simulated_not_allowed", "wrong_profile"}
    allowed = {"profile": "simulated", "imitates": "measured", "baseline": BASELINE.digest}
    wanted = ManagerProfile.load(json.dumps({**document(), "profile": allowed}).encode(), baselines=[BASELINE])
    assert asked(on_tpm(), wanted, simulated).pin.simulated


def test_k11_a_revoked_tpm() -> None:
    """K11: revocation lists of the party's own are looked at."""
    ca = DevelopmentCa("Acme")
    tpm = ForgedTpm(ca=ca)
    lists = (ca.revocations(), ca.revocations(by_root=True))
    given = Given(Trust(vendor=(ca.root,), revocations=lists, demand=True))
    wanted = profile(tpm.boot_baseline(), tpm.machine)
    assert asked(on_tpm(tpm), wanted, given).pin.profile == "measured"
    without = Given(Trust(vendor=(ca.root,), demand=True))
    assert codes(on_tpm(tpm), wanted, without) == {"ek_revocation_unknown"}


def test_k5_another_tpms_ek() -> None:
    """K5, the relayed TPM: the EK is a healthy machine's, the key that quotes is another's. Activation tells them apart."""
    healthy = ForgedTpm()
    borrowed = {**healthy.enrolment(), "ak_public": TPM.ak_public}

    class Liar(Manager):
        def __call__(self, url: str, nonce: bytes) -> Any:
            own, self.attester.machine = self.attester.machine, healthy.machine  # it says so in its binding too
            try:
                shown = super().__call__(url, nonce)
            finally:
                self.attester.machine = own
            tpm = type(shown.attestation.tpm).model_validate(borrowed)
            return replace(shown, attestation=shown.attestation.model_copy(update={"tpm": tpm}))

    manager = Liar(attester=TPM, custody="tpm", pcrs=PCRS)
    wanted = profile(machine=healthy.machine)

    def cannot(url: str, body: Activation) -> tuple[Activated, str]:
        """Neither TPM opens it: the best that is left is to guess."""
        with pytest.raises(ValueError, match=r"."):
            healthy.activate(body.credential, body.secret)
        return Activated(answer=activation_answer(bytes(32), manager.identity.public.text)), shown_key

    shown_key = manager(URL, bytes(32)).peer
    assert codes(manager, wanted, activate=cannot) == {"not_activated"}


def test_a_machine_that_calls_itself_by_another_name() -> None:
    """C2: its own TPM, certified and all, under the name of the machine that the profile pins."""
    pinned = ForgedTpm().machine
    own, TPM.machine = TPM.machine, pinned
    try:
        assert codes(on_tpm(), profile(machine=pinned)) == {"wrong_manager"}
    finally:
        TPM.machine = own


@pytest.mark.parametrize(("purpose", "accepted"), [("manager", True), ("release", False), ("renew", False)])
def test_c5_evidence_that_was_made_for_something_else(purpose: Any, accepted: bool) -> None:
    """C5: a quote of the very machine for a release, with all the same keys in it, is no manager's."""
    manager = on_tpm()

    def reflected(url: str, nonce: bytes) -> Shown:
        shown = manager(url, nonce)
        said = shown.attestation
        payload = digest_of({"custody": said.custody.told(), "host_ca": said.host_ca})
        keys = {"session_hpke": said.intake, "session_tls": said.tls, "manager": said.identity, "host": said.machine}
        bound = binding(purpose=purpose, nonce=nonce, role="manager", agreement="", run="", payload=payload, **keys)
        evidence = TPM.collect(bound).as_json()
        return replace(shown, attestation=said.model_copy(update={"evidence": evidence}))

    if accepted:  # else the other two would show nothing
        assert asked(manager, fetch=reflected).pin.profile == "measured"
    else:
        assert codes(manager, fetch=reflected) == {"binding_mismatch"}


def test_an_activation_is_good_for_one_manager_alone() -> None:
    """C5: the answer names the manager's identity and comes over its TLS key; the bare secret is never told."""
    manager = on_tpm()

    def other_identity(url: str, body: Activation) -> tuple[Activated, str]:
        secret = TPM.activate(body.credential, body.secret)
        return Activated(answer=activation_answer(secret, SigningKey.generate().public.text)), manager.activate(
            url, body
        )[1]

    def other_channel(url: str, body: Activation) -> tuple[Activated, str]:
        return manager.activate(url, body)[0], digest(b"a relay's key")

    for how in (other_identity, other_channel):
        assert codes(manager, activate=how) == {"not_activated"}


def test_c1_a_relay_with_its_own_tls() -> None:
    """C1: true evidence of a TPM over somebody else's connection; and under somebody else's keys."""
    assert codes(on_tpm(peer=digest(b"the relay's key"))) == {"channel_mismatch"}
    for member, other in (("identity", SigningKey.generate().public.text), ("host_ca", digest(b"another"))):
        assert codes(on_tpm(lies={member: other})) == {"binding_mismatch"}


def test_c2_a_word_about_custody_that_no_evidence_covers() -> None:
    """C2: who knows the root key has the TLS key; what it then says of the custody does not fit the quote."""
    manager = on_tpm(custody="passphrase", pcrs=())
    assert codes(manager) == {"custody_weak"}
    lie = {"custody": {"kind": "tpm", "pcrs": list(PCRS)}}
    assert codes(replace(manager, lies=lie)) == {"binding_mismatch"}


def test_a_tpm_that_keeps_the_root_key_for_any_boot() -> None:
    """PCRs that say nothing of what runs keep nothing."""
    assert codes(on_tpm(pcrs=(16, 23))) == {"custody_weak"}


def test_the_parties_say_who_may_keep_the_root_key() -> None:
    """Wider or narrower than what the profile implies."""
    weak = on_tpm(custody="passphrase", pcrs=())
    assert asked(weak, profile(custody=["passphrase"])).pin.custody == "passphrase"
    assert codes(on_tpm(), profile(custody=["tee"])) == {"custody_weak"}


def test_n2_old_evidence_of_a_tpm() -> None:
    """N2, C7: a quote for an earlier nonce."""
    assert codes(on_tpm(nonce=bytes(32))) == {"binding_mismatch"}


def test_another_state_than_the_baseline() -> None:
    """I5: a file that nobody agreed to was loaded on the manager's machine; every reason is told, of machine and custody too."""
    tpm = ForgedTpm()
    baseline = tpm.boot_baseline()
    tpm.measure("/usr/bin/evil", b"evil")
    found = codes(on_tpm(tpm, custody="passphrase", pcrs=()), profile(baseline, TPM.machine))
    assert found == {"not_in_policy", "wrong_machine", "custody_weak"}


def test_one_alternative_is_enough_and_all_reasons_are_told() -> None:
    """`any_of`: the second fits; where none does, each says why."""
    bare = {"profile": "simulated"}
    one = document()["profile"]
    either = json.dumps({**document(), "profile": {"any_of": [bare, one]}}).encode()
    wanted = ManagerProfile.load(either, baselines=[BASELINE])
    assert asked(on_tpm(), wanted).pin.profile == "measured"
    assert codes(on_tpm(custody="passphrase", pcrs=()), wanted) >= {"wrong_profile", "custody_weak"}


def test_the_baseline_comes_from_the_partys_side() -> None:
    """Named by digest in the profile, given beside it; another one is none."""
    for baselines in ([], [Baseline({}, {})]):
        with pytest.raises(PerunError) as caught:
            ManagerProfile.load(json.dumps(document()).encode(), baselines=baselines)
        assert caught.value.code == "baseline_missing"


def test_a_published_profile_is_signed() -> None:
    """In an envelope under the publisher's key: another key, a changed byte, an unsigned one are refused; and so is a signed
    one where nobody is named, for it would look as if somebody stood for it."""
    publisher, other = SigningKey.generate(), SigningKey.generate()
    body = {name: value for name, value in document().items() if name not in ("apiVersion", "kind")}
    envelope = signed("ManagerProfile", body, publisher)
    load = lambda data, *keys: ManagerProfile.load(  # noqa: E731 - shorter than a def
        data, baselines=[BASELINE], signed_by=[key.public.text for key in keys]
    )
    found = load(envelope.encode(), publisher)
    assert found.signers == {publisher.public.text}
    assert asked(on_tpm(), found).pin.profile == "measured"
    twice = envelope.with_signature(other.public, other.sign(envelope.signing_bytes()))
    assert load(twice.encode(), publisher, other).signers == {publisher.public.text, other.public.text}

    def refused(data: bytes, *keys: SigningKey) -> str:
        with pytest.raises(PerunError) as caught:
            load(data, *keys)
        return caught.value.code

    assert refused(envelope.encode(), other) == "bad_signature"
    assert refused(envelope.encode(), publisher, other) == "bad_signature"
    assert refused(json.dumps(document()).encode(), publisher) == "bad_signature"
    assert refused(envelope.encode()) == "malformed"
    forged = replace(envelope, payload=envelope.payload.replace(b'"measured"', b'"measuree"'))
    assert refused(forged.encode(), publisher) == "bad_signature"
    assert refused(signed("Baseline", body, publisher).encode(), publisher) == "wrong_payload_type"


def test_signing_a_profile_that_is_published() -> None:
    """Of a document, then once more; what is no profile, or has a broken signature, is not signed."""
    first, second = SigningKey.generate(), SigningKey.generate()
    data = json.dumps(document()).encode()
    envelope = sign_profile(sign_profile(data, first).encode(), second)
    assert [key for key, _ in envelope.signatures] == [first.public.text, second.public.text]
    keys = [first.public.text, second.public.text]
    assert ManagerProfile.load(envelope.encode(), baselines=[BASELINE], signed_by=keys).signers == {*keys}
    broken = replace(envelope, signatures=((first.public.text, bytes(64)),))
    for bad, code in ((b"[]", "malformed"), (b"{kind: ManagerProfile}", "malformed"), (broken.encode(), "bad_signature"),
                      (signed("Baseline", {"x": 1}, first).encode(), "wrong_payload_type")):  # fmt: skip
        with pytest.raises(PerunError) as caught:
            sign_profile(bad, second)
        assert caught.value.code == code


def test_a_pinned_manager_that_proves_less(tmp_path: Path) -> None:
    """A later contact compares: another profile, machine or custody is a new decision, said in full; the pin stays."""
    home, manager = Home(tmp_path), on_tpm()
    first = asked(manager)
    keep(home, first)
    keep(home, asked(manager))
    for change in (
        {"profile": "simulated", "simulated": True},
        {"machine": "ek:" + digest(b"x")},
        {"custody": "passphrase"},
    ):
        with pytest.raises(EvidenceRefusal) as caught:
            keep(home, replace(first, pin=first.pin.model_copy(update=change)))
        assert caught.value.code == "manager_changed"
    assert home.pin().profile == "measured"
