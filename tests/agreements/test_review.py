"""The review says what approving means, in sentences."""

from __future__ import annotations

import pytest

from agreements.sample import document, edit, key, simulated
from perunml.agreements.approvals import approval, standing
from perunml.agreements.document import agreement_from_json
from perunml.agreements.review import bits_leaving, review
from perunml.agreements.schema import Agreement
from perunml.agreements.words import BESIDE, BINDERS, PROTECTION, REMAINS
from perunml.wire.dsse import signed
from perunml.wire.errors import PerunError
from perunml.wire.hpke import HpkePrivateKey

NOW = 1_800_000_000


def text(agreement: Agreement, party: str = "st-vitus") -> str:
    return "\n".join(f"{section.title}: {' '.join(section.sentences)}" for section in review(agreement, party))


def test_the_bits_that_may_leave_are_summed() -> None:
    """max_size times runs times 8, over all outputs of a recipient."""
    a = agreement_from_json(document())
    metrics = 64 * 1024 * 3 * 8
    assert bits_leaving(a) == {"acme": 500 * 2**20 * 3 * 8 + metrics, "st-vitus": metrics}
    assert f"To acme: at most {bits_leaving(a)['acme']:,} bits" in text(a)
    assert "To clinic: the answers of serve, 10000 in 1 day" in text(a)


def test_a_whole_log_is_told_as_what_it_is() -> None:
    """Everything that the code prints may be everything that it reads; a class of errors is four bits a run."""
    full = agreement_from_json(
        edit(document(), "jobs/train/outputs/logs", {"to": "acme", "level": "full", "max_size": "1MiB"})
    )
    assert "EVERYTHING THAT THE CODE PRINTS" in text(full)
    before = bits_leaving(agreement_from_json(document()))["acme"]
    assert bits_leaving(full)["acme"] == before + 2**20 * 3 * 8
    only = agreement_from_json(edit(document(), "jobs/train/outputs/logs", {"to": "acme", "level": "error-class"}))
    assert "Output logs is the class of a run's error" in text(only)
    assert bits_leaving(only)["acme"] == before + 4 * 3


@pytest.mark.parametrize(
    "more", [{"format": "json"}, {"fields": ["loss"]}, {"use": ["serve"]}, {"max_size": "17MiB"}, {"level": "some"}]
)
def test_a_log_is_a_log_and_nothing_else(more: dict[str, object]) -> None:
    """No format that it could pass for, no job that reads it, no size that its host could not hold."""
    with pytest.raises(PerunError) as caught:
        agreement_from_json(edit(document(), "jobs/train/outputs/logs", {"to": "acme", "level": "full", **more}))
    assert caught.value.code == "malformed"


def test_checkpoints_are_told() -> None:
    """Who gets them: nobody; how large, how often."""
    kept = agreement_from_json(edit(document(), "jobs/train/checkpoints", {"max_size": "1GiB", "every": "10m"}))
    assert "its checkpoint (at most 1.0 GiB, padded to that) is sealed" in text(kept)


def test_limits_on_answers_are_told() -> None:
    """Rows, how many scores, how many digits; and what is not limited."""
    limited = edit(
        edit(edit(document(), "jobs/serve/limits/batch", 1), "jobs/serve/limits/top_k", 3),
        "jobs/serve/limits/digits",
        2,
    )
    said = text(agreement_from_json(limited))
    assert "A request has at most 1 row." in said
    assert "Of its scores an answer has the 3 greatest of each row, rounded to 2 decimal digits; whole numbers" in said
    assert "Of its scores" not in text(agreement_from_json(document()))


def test_batching_is_told() -> None:
    """That strangers' requests meet in one computation, how many, how long."""
    together = agreement_from_json(edit(document(), "jobs/serve/batching", {"rows": 32, "delay_ms": 5}))
    assert "Requests of different clients are computed together, up to 32 rows, after 5 ms at most" in text(together)
    assert "computed together" not in text(agreement_from_json(document()))


@pytest.mark.parametrize(
    "more", [{"rows": 1, "delay_ms": 5}, {"rows": 8}, {"rows": 8, "delay_ms": 1001}, {"rows": 4097, "delay_ms": 0}]
)
def test_batching_has_bounds(more: dict[str, object]) -> None:
    """Two rows at least, and a second at most."""
    with pytest.raises(PerunError) as caught:
        agreement_from_json(edit(document(), "jobs/serve/batching", more))
    assert caught.value.code == "malformed"


def test_covert_channels_are_never_left_out() -> None:
    """Whatever the profile, timing and sizes remain."""
    for made in (document(), simulated()):
        assert REMAINS[0] in text(agreement_from_json(made))
    assert "Covert channels" in REMAINS[0]


def test_simulated_says_that_it_proves_nothing() -> None:
    """At the head, and at each role that allows it."""
    said = text(agreement_from_json(simulated()))
    assert said.count("simulated: proves nothing") >= 3
    assert "This agreement allows `simulated`" in said
    assert "Nobody cosigns the ledger" in said


@pytest.mark.parametrize("profile", sorted(PROTECTION))
def test_the_column_that_applies_is_said_whole(profile: str) -> None:
    """Each profile brings each sentence of its column, and no other profile's speed."""
    role = {
        "simulated": {"profile": "simulated"},
        "measured": document()["hosts"]["trainer"],
        "tee": {"profile": "tee", "tdx": {"mrtd": "0"}},
        "gpu-cc": {"profile": "gpu-cc", "snp": {"measurement": "0"}, "gpu": {"driver": "1"}},
    }[profile]
    a = agreement_from_json(
        edit(edit(document(), "hosts/trainer", role), "manager/profile", {"profile": "tee", "sgx": {"m": "0"}})
    )
    section = next(s for s in review(a, "acme") if s.title == "Hosts trainer, for train")
    for sentence in PROTECTION[profile]:
        assert sentence in section.sentences
    assert ("No machine is pinned here" in " ".join(section.sentences)) == (profile in ("tee", "gpu-cc"))


def test_several_profiles_protect_as_the_weakest() -> None:
    """Any one will do, so the weakest is what counts, and each sentence says of which it speaks."""
    section = next(s for s in review(agreement_from_json(document()), "acme") if s.title.startswith("Hosts inference"))
    assert "as by the weakest" in section.sentences[0]
    assert section.sentences[1].startswith("As simulated: simulated: proves nothing")


def test_pinned_machines_are_named() -> None:
    """The parties see which machines they approve."""
    a = agreement_from_json(document())
    assert f"Only on: {a.hosts['trainer'].machines[0]}." in text(a)  # type: ignore[union-attr]


def test_each_party_reads_its_own_part() -> None:
    """What it brings, gets, runs, may ask and must approve."""
    a = agreement_from_json(document())
    assert "Each train.outputs.model waits for your approval" in text(a, "st-vitus")
    assert "On hosts of gpu-cloud. What is made from it reaches acme, clinic, st-vitus." in text(a, "st-vitus")
    assert "You get train.outputs.model" in text(a, "acme")
    assert "You run the hosts of serve, train" in text(a, "gpu-cloud")
    assert "You may ask serve" in text(a, "clinic")


def test_an_asset_that_no_job_reads_is_told() -> None:
    """A mistake that a reviewer should see."""
    more = {"kind": "dataset", "owner": "st-vitus", "digest": "sha256:" + "9" * 64}
    assert "No job reads it." in text(agreement_from_json(edit(document(), "assets/more", more)))


def test_who_has_still_to_approve_is_told() -> None:
    """Before, in between, and after the last signature."""
    a = agreement_from_json(document())
    assert review(a, "acme")[-1].sentences[-1] == "st-vitus: dpo and (1 of dr-a, dr-b)."
    votes = [signed("Approval", approval(a, "acme", a.ends), key("acme/ml"))]
    found = standing(a, votes, NOW)
    assert not any(s.startswith("acme") for s in review(a, "acme", found)[-1].sentences)
    names = ("st-vitus/dpo", "st-vitus/dr-a", "gpu-cloud/ops", "clinic/desk")
    votes += [signed("Approval", approval(a, n.split("/")[0], a.ends), key(n)) for n in names]
    assert review(a, "acme", standing(a, votes, NOW))[-1].sentences == ("Nobody: it is in force.",)


def test_a_stranger_reviews_nothing() -> None:
    """A name that is not there is a mistake, told with the names that are."""
    with pytest.raises(PerunError, match="no party"):
        review(agreement_from_json(document()), "nobody")


def test_shared_machines_and_versions_are_told() -> None:
    """Tenancy and predecessor are seen by whoever approves."""
    made = edit(document(), "jobs/train/tenancy", "shared")
    made["metadata"] |= {"version": 2, "predecessor": "sha256:" + "1" * 64}
    said = text(agreement_from_json(made))
    assert "tenancy: shared" in said
    assert "It replaces the version sha256:1111" in said


@pytest.mark.parametrize("binder", ["machines", "pcr", "tpm-key", "vtpm"])
def test_a_tee_with_a_tpm_is_said_as_one_machine(binder: str) -> None:
    """It protects as the TEE does, more is proven, and the binder is said; so are the rules of the TEE."""
    role = {
        "all_of": [
            {"profile": "tee", "snp": {"measurement": ["7a" * 48], "smt": True}},
            document()["hosts"]["trainer"],
        ],
        "binder": binder,
        "machines": ["ek:sha256:" + "e" * 64 + "+chip:sha256:" + "c" * 64],
    }
    a = agreement_from_json(edit(document(), "hosts/trainer", role))
    section = next(s for s in review(a, "acme") if s.title == "Hosts trainer, for train")
    said = section.sentences
    assert BESIDE in said
    assert BINDERS[binder] in said
    assert set(PROTECTION["tee"]) - set(said) == {"What ran is proven to every party at load, not afterwards."}
    assert not set(PROTECTION["measured"][1:]) & set(said)
    assert f"Its snp must show: measurement: {'7a' * 48}; smt: yes." in said
    assert any(sentence.startswith("Only on: ek:sha256:") for sentence in said)


def test_a_version_says_what_changes_and_for_whom() -> None:
    """What touches the reader comes first; without the version before, that it is missing; against another one it is refused."""
    first = agreement_from_json(document())
    made = edit(document(), "jobs/train/limits/wall", "1h")
    made["parties"]["clinic"]["receive"] = HpkePrivateKey.generate().public.text
    made["metadata"] |= {"version": 2, "predecessor": first.digest}
    second = agreement_from_json(made)
    assert "What changes: The version before is not here" in text(second)
    (said,) = [found for found in review(second, "clinic", predecessor=first) if found.title == "What changes"]
    assert said.sentences[0].startswith("parties.clinic.receive")
    assert said.sentences[1].startswith("jobs.train.limits.wall: 8h becomes 1h. It narrows")
    assert said.sentences[2:] == ("clinic must approve.", "One of acme, gpu-cloud, st-vitus must approve.")
    with pytest.raises(PerunError, match="version_rollback"):
        review(second, "acme", predecessor=second)
