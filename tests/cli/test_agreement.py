"""`perunml agreement` and `perunml document`, as far as they need no manager."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agreements.sample import simulated
from cli.kit import Party


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "agreement.yaml"
    path.write_text(json.dumps(simulated()))
    return path


def test_check_names_digest_and_parts(nobody: Party, file: Path) -> None:
    """Needs no identity and asks nobody."""
    found = nobody.ok("agreement", "check", file)
    assert found["digest"].startswith("sha256:")
    assert set(found["parties"]) == {"st-vitus", "acme", "gpu-cloud", "clinic"}
    assert found["digest"] in nobody("agreement", "check", file, passphrase=None).out


def test_an_unknown_key_names_the_nearest_known(nobody: Party, tmp_path: Path) -> None:
    """`assts` is not ignored; exit code 2."""
    document = simulated()
    document["assts"] = document.pop("assets")
    path = tmp_path / "bad.yaml"
    path.write_text(json.dumps(document))
    said = nobody("agreement", "check", path, passphrase=None)
    assert (said.code, said.reasons[0]) == (2, "malformed")
    assert "did you mean 'assets'" in said.err


@pytest.mark.parametrize("text", ["", "a: 1\na: 2", "&x [*x]", "kind: Agreement", "\x00", "[" * 2000])
def test_what_is_no_agreement(nobody: Party, tmp_path: Path, text: str) -> None:
    """P9: duplicate keys, aliases, nesting, nothing at all."""
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert nobody.refused("agreement", "check", path, passphrase=None) == (2, "malformed")


def test_pickle_is_refused(nobody: Party, tmp_path: Path) -> None:
    """A model in pickle never leaves a job: the agreement cannot even say so."""
    document = simulated()
    document["jobs"]["train"]["outputs"]["model"]["format"] = "pickle"
    path = tmp_path / "bad.yaml"
    path.write_text(json.dumps(document))
    assert nobody.refused("agreement", "check", path, passphrase=None) == (2, "format_refused")


def test_schema_is_published(nobody: Party) -> None:
    """The same JSON in text and with `-o json`."""
    found = nobody.ok("agreement", "schema")
    assert found["$schema"].endswith("2020-12/schema")
    assert json.loads(nobody("agreement", "schema", passphrase=None).out) == found


def test_review_in_sentences(nobody: Party, file: Path) -> None:
    """What approving would mean and sign, offline, for a named party; simulated is said plainly."""
    found = nobody.ok("agreement", "review", file, "--party", "st-vitus")
    assert found["party"] == "st-vitus"
    assert found["sections"]
    text = nobody("agreement", "review", file, "--party", "st-vitus", passphrase=None).out
    assert "simulated" in text
    assert f"Approving signs exactly this document: {found['digest']}" in text


def test_review_for_a_stranger(vitus: Party, file: Path) -> None:
    """Neither a name that is no party's nor a key that is none's."""
    assert vitus.refused("agreement", "review", file) == (10, "no_key_of_a_party")
    assert vitus.refused("agreement", "review", file, "--party", "mallory") == (10, "no_key_of_a_party")


def test_a_baseline_has_a_digest(nobody: Party, tmp_path: Path) -> None:
    """What `document push` sends and what an agreement names are one."""
    from perunml.evidence.baseline import Baseline

    baseline = Baseline(
        {"sha256": {i: bytes([i]) * 32 for i in range(10)}}, {"/bin/x": frozenset({"sha256:" + "a" * 64})}
    )
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps({"apiVersion": "perunml/v1", "kind": "Baseline", **baseline.as_json()}))
    assert nobody.ok("document", "digest", path) == {"digest": baseline.digest, "kind": "Baseline"}


@pytest.mark.parametrize(
    "text", ["{}", "kind: Baseline", '{"apiVersion":"perunml/v1","kind":"Baseline","pcrs":{}}', "- a"]
)
def test_what_is_no_document(nobody: Party, tmp_path: Path, text: str) -> None:
    """Unknown kinds and missing members."""
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert nobody.refused("document", "digest", path, passphrase=None) == (2, "malformed")


def test_proposing_needs_a_pin(vitus: Party, file: Path) -> None:
    """Before a manager was verified, nothing is sent anywhere."""
    for command in (["agreement", "propose", file], ["agreement", "list"], ["job", "list"], ["ledger", "verify"]):
        assert vitus.refused(*command) == (2, "not_pinned")
