"""From an agreement's words to what evidence is judged by; who may ask a service."""

from __future__ import annotations

import pytest

from agreements.sample import document, edit, key, sha, simulated
from perunml.agreements.document import agreement_from_json
from perunml.agreements.jobs import ServiceJob
from perunml.evidence.baseline import Baseline
from perunml.release.clients import check_client, client_keys
from perunml.release.policy import check_signed, policy_for
from perunml.wire.errors import PerunError
from release.world import AGREEMENT

BASELINE = Baseline({"sha256": {0: bytes(32)}}, {})


def test_each_alternative_has_its_policy() -> None:
    """In the agreement's order; only the one that says so allows `simulated`."""
    found = policy_for(AGREEMENT.role("serve"), {})
    assert [(p.profile, p.imitates, p.allow_simulated) for p in found] == [
        ("tee", "", False),
        ("tee", "", False),
        ("simulated", "tee", True),
    ]


def test_measured_is_judged_by_the_agreed_baseline() -> None:
    """Real or imitated."""
    for made in (document(), simulated()):
        a = agreement_from_json(edit(made, "hosts/trainer/baseline", BASELINE.digest))
        (policy,) = policy_for(a.role("train"), {BASELINE.digest: BASELINE})
        assert policy.baseline is BASELINE
        assert policy.allow_simulated == (policy.profile == "simulated")
        assert policy.imitates == ("measured" if policy.allow_simulated else "")


def test_a_baseline_that_is_not_there_is_refused() -> None:
    """Missing, or filed under another's digest: nothing is judged without it."""
    for baselines in ({}, {sha("c"): BASELINE}):
        with pytest.raises(PerunError, match="baseline_missing"):
            policy_for(AGREEMENT.role("train"), baselines)


def test_a_baseline_is_signed_by_the_whole_board_of_the_party_named() -> None:
    """Two of its three keys where the board says so; a key of another party counts for nothing."""
    made = edit(document(), "hosts/trainer/baseline_by", "st-vitus")
    a = agreement_from_json(made)
    role, digest = a.role("train"), a.hosts["trainer"].baseline_digest  # type: ignore[union-attr]
    own = list(a.parties["st-vitus"].keys.values())
    check_signed(a, role, {digest: frozenset(own)})
    for signed in (frozenset(), frozenset(a.parties["acme"].keys.values())):
        with pytest.raises(PerunError, match="baseline_unsigned"):
            check_signed(a, role, {digest: signed})
    with pytest.raises(PerunError, match="baseline_unsigned"):
        check_signed(a, role, {sha("d"): frozenset(own)})
    check_signed(AGREEMENT, AGREEMENT.role("train"), {})


def test_a_baseline_of_nobody_is_inconsistent() -> None:
    """The signer is one of the parties, and signs something."""
    with pytest.raises(PerunError, match="agreement_inconsistent"):
        agreement_from_json(edit(document(), "hosts/trainer/baseline_by", "nobody"))


def test_a_client_is_known_by_its_key() -> None:
    """The clinic may ask; the others may not, whatever they are otherwise."""
    assert check_client(AGREEMENT, "serve", key("clinic/desk").public.text) == "clinic"
    for who in ("acme/ml", "gpu-cloud/ops", "manager", "stranger"):
        with pytest.raises(PerunError, match="client_not_in_agreement"):
            check_client(AGREEMENT, "serve", key(who).public.text)


def test_only_services_are_asked() -> None:
    """A training answers nobody."""
    for job in ("train", "nothing"):
        with pytest.raises(PerunError, match="job_unknown"):
            check_client(AGREEMENT, job, key("clinic/desk").public.text)


def test_a_service_is_told_its_clients_keys() -> None:
    """By party, and no other party's."""
    job = AGREEMENT.jobs["serve"]
    assert isinstance(job, ServiceJob)
    assert client_keys(AGREEMENT, job) == {"clinic": [key("clinic/desk").public.text]}
