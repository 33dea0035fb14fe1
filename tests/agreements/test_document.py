"""Reading agreements: strict, one digest for one content, every fault named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agreements.sample import DROP, MACHINE, document, edit, key, sha, simulated
from perunml.agreements.document import (
    agreement_envelope,
    agreement_from_json,
    json_schema,
    load_agreement,
    open_agreement,
)
from perunml.agreements.schema import Agreement
from perunml.wire.canonical import canonical
from perunml.wire.digests import digest, digest_of
from perunml.wire.errors import PerunError

SPEC = Path(__file__).parents[2] / "docs" / "spec"


def codes(value: Any) -> set[str]:
    with pytest.raises(PerunError) as caught:
        agreement_from_json(value)
    return {reason.code for reason in caught.value.reasons}


def test_yaml_and_json_of_one_content_have_one_digest() -> None:
    """The name of an agreement does not depend on how it was typed."""
    from_yaml = load_agreement(yaml.safe_dump(document()).encode())
    from_json = load_agreement(json.dumps(document(), indent=3).encode())
    assert from_yaml == from_json
    assert from_yaml.digest == digest_of(document())
    assert hash(from_yaml) == hash(from_json)


def test_defaults_are_not_part_of_the_digest() -> None:
    """Writing out what would have been assumed makes another document."""
    assert agreement_from_json(edit(document(), "jobs/serve/tenancy", "exclusive")) != agreement_from_json(document())


def test_quantities_are_read_as_numbers_and_kept_as_written() -> None:
    """500MiB is bytes in the model and text in the document."""
    agreement = agreement_from_json(document())
    job = agreement.training("train")
    assert job is not None
    assert (job.outputs["model"].max_size, job.limits.wall, job.lease) == (500 * 2**20, 8 * 3600, 30)
    assert agreement.job_json("train")["outputs"]["model"]["max_size"] == "500MiB"
    assert b"500MiB" in agreement.payload


def test_one_and_one_point_nought_are_one_number() -> None:
    """What is read is what travels: canonical JSON writes 1.0 as 1, so a bound's spelling decides nothing."""
    a = agreement_from_json(edit(document(), "jobs/train/parameters/epochs", {"max": 50.0}))
    b = agreement_from_json(edit(document(), "jobs/train/parameters/epochs", {"max": 50}))
    assert a == b
    job = a.training("train")
    assert job is not None
    assert not job.parameters["epochs"].allows(2.5)


def test_an_agreement_comes_back_out_of_its_envelope() -> None:
    """Signed by one of its parties, it is the same agreement elsewhere."""
    agreement = agreement_from_json(document())
    envelope = agreement_envelope(agreement)
    assert envelope.digest == agreement.digest
    signed = envelope.with_signature(key("acme/ml").public, key("acme/ml").sign(envelope.signing_bytes()))
    assert open_agreement(signed) == agreement


def test_a_stranger_proposes_nothing() -> None:
    """An agreement signed by nobody it names is refused."""
    envelope = agreement_envelope(agreement_from_json(document()))
    stranger = key("stranger")
    signed = envelope.with_signature(stranger.public, stranger.sign(envelope.signing_bytes()))
    with pytest.raises(PerunError, match="bad_signature"):
        open_agreement(signed)


def test_an_agreement_is_not_made_past_the_checks() -> None:
    """The model alone makes no agreement."""
    with pytest.raises(TypeError):
        Agreement.model_validate(document())


def test_an_agreement_does_not_change() -> None:
    """Neither its fields nor its tables can be written."""
    agreement = agreement_from_json(document())
    with pytest.raises(TypeError):
        agreement.assets["scans"] = agreement.assets["unet"]  # type: ignore[index]
    with pytest.raises(ValueError, match="frozen"):
        agreement.kind = "Agreement"


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("assts", "assets"),
        ("metadata/nam", "name"),
        ("parties/acme/recieve", "receive"),
        ("jobs/train/limits/run", "runs"),
        ("jobs/train/outputs/model/max-size", "max_size"),
        ("jobs/serve/client", "clients"),
        ("hosts/trainer/machine", "machines"),
        ("assets/unet/entri", "entry"),
        ("witnesses/at_leest", "at_least"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(path: str, nearest: str) -> None:
    """A typing mistake is no silent change of meaning."""
    with pytest.raises(PerunError, match=f"did you mean '{nearest}'") as caught:
        agreement_from_json(edit(document(), path, 1))
    assert caught.value.code == "malformed"


MALFORMED: list[tuple[str, Any]] = [
    ("apiVersion", "perunml/v2"),
    ("kind", "Approval"),
    ("metadata/name", "Brain"),
    ("metadata/name", "br\u0430in"),  # P9: a Cyrillic letter
    ("metadata/name", "brain\u202e"),  # P9: a bidi mark
    ("metadata/name", "a" * 64),
    ("metadata/name", "brain\n"),
    ("metadata/version", 2),
    ("metadata/version", True),
    ("metadata/predecessor", sha("0")),
    ("manager", DROP),
    ("manager/key", "ed25519:AAAA"),
    ("witnesses", DROP),
    ("witnesses", {"waived_because_simulated": False}),
    ("witnesses/at_least", 3),
    ("parties", {}),
    ("parties/acme/keys", {}),
    ("parties/acme/receive", "hpke:AAAA"),
    ("parties/st-vitus/approve", DROP),
    ("parties/st-vitus/approve", {"all": []}),
    ("parties/st-vitus/approve", {"at_least": 0, "of": ["dpo"]}),
    ("parties/st-vitus/approve", {"at_least": 3, "of": ["dr-a", "dr-b"]}),
    ("parties/st-vitus/approve", {"all": ["dpo"], "at_least": 1, "of": ["dr-a"]}),
    ("parties/st-vitus/approve", 7),
    ("assets", {}),
    ("assets/scans/owner", DROP),  # P10: no last owner may go
    ("assets/scans/digest", "sha256:AA"),
    ("assets/scans/kind", "secret"),
    ("assets/scans/entry", "train.py"),
    ("assets/unet/entry", DROP),
    ("assets/unet/entry", "../train.py"),
    ("assets/unet/entry", "/train.py"),
    ("assets/unet/entry", "a//b.py"),
    ("hosts/trainer/machines", DROP),  # P15: measured without named machines
    ("hosts/trainer/machines", []),
    ("hosts/trainer/machines", ["simulated:" + sha("0")]),
    ("hosts/trainer/machines", [MACHINE, MACHINE]),
    ("hosts/trainer/baseline", DROP),
    ("hosts/trainer/profile", "any"),  # P20: no profile that takes everything
    ("hosts/trainer/profile", DROP),
    ("hosts/trainer", {"any_of": []}),
    ("hosts/trainer", {"profile": "simulated", "imitates": "measured"}),
    ("hosts/trainer", {"profile": "tee"}),
    ("hosts/trainer", {"profile": "tee", "tdx": {}}),
    ("hosts/trainer", {"profile": "tee", "tdx": {"mrtd": "0"}, "snp": {"m": "0"}}),
    ("hosts/trainer", {"profile": "tee", "tdx": {"mrtd": 0.5}}),
    ("hosts/trainer", {"profile": "tee", "tdx": {"mrtd": None}}),
    ("hosts/trainer", {"profile": "tee", "tdx": {"mrtd": [[[[["0"]]]]]}}),
    ("hosts/trainer", {"profile": "tee", "tdx": {"mrtd": "0" * 70_000}}),
    ("hosts/trainer", {"profile": "gpu-cc", "gpu": {"driver": "1"}}),
    ("jobs/train/inputs/scans", "/etc/passwd"),
    ("jobs/train/inputs/scans", "/in/../etc"),
    ("jobs/train/inputs/scans", "/in/.."),
    ("jobs/train/network", "host"),
    ("jobs/train/lease", "0s"),
    ("jobs/train/lease", "2h"),
    ("jobs/train/lease", 30),
    ("jobs/train/limits/runs", 0),
    ("jobs/train/limits/runs", "3"),
    ("jobs/train/limits/until", "2027-06-30"),
    ("jobs/train/limits/until", DROP),
    ("jobs/train/limits/wall", DROP),
    ("jobs/train/limits/wall", "0s"),
    ("jobs/train/parameters/epochs", {}),
    ("jobs/train/parameters/epochs", {"min": 2, "max": 1}),
    ("jobs/train/parameters/epochs", {"max": True}),
    ("jobs/train/parameters/epochs", {"in": []}),
    ("jobs/train/parameters/epochs", {"in": [1, 1]}),
    ("jobs/train/parameters/epochs", {"value": [1]}),
    ("jobs/train/parameters/epochs", {"value": None}),
    ("jobs/train/outputs/model/max_size", DROP),
    ("jobs/train/outputs/model/max_size", "0B"),
    ("jobs/train/outputs/model/to", []),
    ("jobs/train/outputs/model/release", {"approve": []}),
    ("jobs/train/outputs/metrics/format", "csv"),
    ("jobs/train/outputs/metrics/fields", []),
    ("jobs/serve/engine", "python"),
    ("jobs/serve/clients", []),
    ("jobs/serve/limits/requests", "many"),
    ("jobs/serve/limits", {"requests": "1/day"}),
    ("jobs/train/tenancy", "open"),
]


@pytest.mark.parametrize(("path", "value"), MALFORMED, ids=lambda v: str(v)[:40].encode("ascii", "replace").decode())
def test_a_field_out_of_form_is_refused(path: str, value: Any) -> None:
    """P9, P10, P15, P20: each field broken once, with its place in the message."""
    assert codes(edit(document(), path, value)) == {"malformed"}


@pytest.mark.parametrize("format", ["pickle", "pkl", "pt", "joblib", "log", "", None, 7])
def test_an_output_in_pickle_is_refused(format: Any) -> None:
    """A format that runs code when it is read, or that is not known, is never agreed on."""
    assert codes(edit(document(), "jobs/train/outputs/model/format", format)) == {"format_refused"}


@pytest.mark.parametrize(
    "text",
    [
        b'{"apiVersion": "perunml/v1", "apiVersion": "perunml/v1"}',
        b'{"apiVersion": NaN}',
        b"a: 1\na: 2",
        b"a: &x 1\nb: *x",
        b"",
        b"[]",
        b"- 1",
        b"\xff\xfe",
        b"{" * 100,
    ],
)
def test_text_that_is_no_strict_document_is_refused(text: bytes) -> None:
    """P9: duplicate keys, NaN, anchors, nothing at all."""
    with pytest.raises(PerunError) as caught:
        load_agreement(text)
    assert {reason.code for reason in caught.value.reasons} == {"malformed"}


def test_what_has_no_canonical_form_is_refused() -> None:
    """P9: NaN in a value that was never text."""
    assert codes(edit(document(), "jobs/train/parameters/epochs/max", float("nan"))) == {"malformed"}


def test_a_parameter_is_an_object() -> None:
    """Neither a bare value, nor bounds that are no numbers, nor a type of its own."""
    for value in (5, {"max": "a"}, {"max": 5, "type": "complex"}):
        assert codes(edit(document(), "jobs/train/parameters/epochs", value)) == {"malformed"}


def test_bounds_that_are_whole_may_still_allow_fractions() -> None:
    """Canonical JSON has one spelling for 1 and 1.0, so `type` says it."""
    job = agreement_from_json(
        edit(document(), "jobs/train/parameters/rate", {"min": 0, "max": 1, "type": "number"})
    ).training("train")
    assert job is not None
    assert job.parameters["rate"].allows(0.5)
    assert job.parameters["rate"].in_words() == "a number from 0 to 1"


def test_an_agreement_shows_its_name_not_its_keys() -> None:
    """In logs it is a line."""
    assert repr(agreement_from_json(document())).startswith("<Agreement brain-mri-2027 v1 sha256:")
    assert agreement_from_json(document()) != "brain-mri-2027"


def test_every_fault_is_told_at_once() -> None:
    """Three mistakes, three reasons."""
    broken = edit(edit(document(), "jobs/train/limits/runs", 0), "jobs/serve/clients", [])
    with pytest.raises(PerunError) as caught:
        agreement_from_json(edit(broken, "assets/scans/digest", "x"))
    assert len(caught.value.reasons) == 3


def test_the_published_schema_is_the_one_that_reads() -> None:
    """`docs/spec/agreement.schema.json` is generated; `python -m perunml.agreements` prints it."""
    assert json.loads((SPEC / "agreement.schema.json").read_text()) == json_schema()


def test_the_specification_shows_an_agreement_that_is_read() -> None:
    """The worked example is an agreement, and has the digest that docs/spec/agreement.md tells."""
    example = load_agreement((SPEC / "agreement.example.yaml").read_bytes())
    assert example.digest in (SPEC / "agreement.md").read_text()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_edit_of_an_agreement_escapes_as_another_error(data: st.DataObject) -> None:
    """Whatever stands somewhere, reading gives an agreement or coded reasons, nothing else."""
    made = document()
    path: list[str] = []
    at: Any = made
    while isinstance(at, (dict, list)) and at and (not path or data.draw(st.booleans())):
        step = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else [str(i) for i in range(len(at))]))
        path.append(step)
        at = at[int(step)] if isinstance(at, list) else at[step]
    junk = st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53) + 1, 2**53 - 1)
        | st.floats(allow_nan=False)
        | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=5,
    )
    *head, last = path
    holder: Any = made
    for step in head:
        holder = holder[int(step)] if isinstance(holder, list) else holder[step]
    holder[int(last) if isinstance(holder, list) else last] = data.draw(junk)
    try:
        text = canonical(made)
    except ValueError:
        return
    try:
        outcome = load_agreement(text).digest
    except PerunError as exc:
        outcome = exc.code
    assert outcome in {digest(text), "malformed", "format_refused", "agreement_inconsistent"}


def test_a_simulated_agreement_waives_its_witnesses() -> None:
    """The demo's kind of agreement is read."""
    assert not agreement_from_json(simulated()).needs_quorum


def test_the_schema_is_as_strict_as_the_reader_about_names() -> None:
    """Every object of the schema refuses what it does not know, and no default stands where a text is written."""

    def look(node: Any) -> int:
        if isinstance(node, list):
            return sum(look(item) for item in node)
        if not isinstance(node, dict):
            return 0
        if node.get("type") == "object":
            # a TEE's rules are read by `release.policy`, before anything is proposed
            assert node["additionalProperties"] is (node.get("$comment") == "docs/spec/tee.md")
        if node.get("type") == "string":
            assert isinstance(node.get("default", ""), str)
        return (node.get("type") == "object") + sum(look(value) for value in node.values())

    assert look(json_schema()) > 20
