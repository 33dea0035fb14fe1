"""Agreements at a real manager: proposed, read, approved, suspended."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cli.kit import PASSPHRASE
from cli.world import World


@pytest.fixture(scope="module")
def proposed(world: World) -> str:
    """An agreement that nobody approved."""
    digest: str = world["acme"].ok("agreement", "propose", world.write(world.document("proposed")))["digest"]
    return digest


@pytest.fixture(scope="module")
def agreed(world: World) -> str:
    """An agreement in force."""
    return world.agree("agreed")


def test_it_comes_into_force_with_the_last_word(world: World) -> None:
    """P3: until then it is proposed, and `show` says who is missing."""
    digest = world["acme"].ok("agreement", "propose", world.write(world.document("last-word")))["digest"]
    for name, party in world.parties.items():
        before = party.ok("agreement", "show", "last-word")
        assert before["state"] == "proposed"
        assert name in before["missing"]
        after = party.ok("agreement", "approve", "last-word", "--digest", digest)
        assert name in after["approved"]
    assert after["state"] == "in_force"
    assert {"name": "last-word", "state": "in_force"}.items() <= {
        (key, item[key])
        for item in party.ok("agreement", "list")["agreements"]
        if item["name"] == "last-word"
        for key in ("name", "state")
    }
    assert "in force" in party("agreement", "show", digest).out


def test_approving_needs_the_digest_or_a_yes(world: World, proposed: str) -> None:
    """P5: without a terminal and without the digest, or with another one, nothing is signed."""
    assert world["clinic"].refused("agreement", "approve", proposed) == (2, "not_confirmed")
    other = "sha256:" + "0" * 64
    assert world["clinic"].refused("agreement", "approve", proposed, "--digest", other) == (2, "not_confirmed")
    assert world["clinic"].ok("agreement", "show", proposed)["approved"] == []


@pytest.mark.parametrize(("answer", "code"), [("n", 2), ("y", 0)])
def test_a_person_at_a_terminal(world: World, answer: str, code: int) -> None:
    """The review is shown first, then the question; no passphrase is echoed."""
    name = f"terminal-{answer}"
    digest = world["acme"].ok("agreement", "propose", world.write(world.document(name)))["digest"]
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "perunml", "--home", str(world["clinic"].home), "agreement", "approve", name]
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, close_fds=True) as process:
        os.close(follower)
        said = b""
        for question, reply in ((b"Passphrase", PASSPHRASE), (b"Approve ", answer.encode())):
            while question not in said:
                said += os.read(leader, 65536)
            os.write(leader, reply + b"\n")
        while True:
            try:
                more = os.read(leader, 65536)
            except OSError:
                break
            if not more:
                break
            said += more
    os.close(leader)
    assert process.returncode == code
    assert PASSPHRASE not in said
    text = said.decode()
    assert text.index("Approving signs exactly this document") < text.index(f"Approve {digest}")
    assert ("clinic" in world["clinic"].ok("agreement", "show", digest)["approved"]) is (answer == "y")


def test_review_what_the_manager_holds(world: World, proposed: str) -> None:
    """By digest or name, for this home's party."""
    found = world["st-vitus"].ok("agreement", "review", "proposed")
    assert (found["party"], found["digest"]) == ("st-vitus", proposed)


def test_the_review_says_who_signed_each_baseline(world: World, tmp_path: Path) -> None:
    """The digest pins the document; whoever sent it is named, and a baseline that nobody sent is told."""
    import json

    from perunml.testing.forge import ForgedTpm

    baseline = ForgedTpm().baseline()
    document = world.document("with-baseline")
    role = document["jobs"]["train"]["hosts"]
    document["hosts"][role] = {"profile": "simulated", "imitates": "measured", "baseline": baseline.digest}
    acme = world["acme"]
    acme.ok("agreement", "propose", world.write(document))

    def told() -> str:
        sections = acme.ok("agreement", "review", "with-baseline")["sections"]
        return "".join(next(section["sentences"] for section in sections if section["title"] == "Baselines"))

    assert "is not at the manager yet" in told()
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps({"apiVersion": "perunml/v1", "kind": "Baseline", **baseline.as_json()}))
    world["st-vitus"].ok("document", "push", path)
    assert f"{baseline.digest} lists {len(baseline.files)} files" in told()
    assert "signed by st-vitus (ed25519:" in told()


def test_proposing_for_another_manager(world: World) -> None:
    """An agreement that names another manager goes nowhere."""
    from perunml.wire.identity import SigningKey

    document = world.document("elsewhere")
    document["manager"]["key"] = SigningKey.generate().public.text
    assert world["acme"].refused("agreement", "propose", world.write(document)) == (11, "wrong_manager")


def test_a_stranger_proposes_nothing_and_sees_nothing(world: World, agreed: str, tmp_path: Path) -> None:
    """A key that is no party's; what exists and what does not look alike (C16)."""
    stranger = world.manager.party(tmp_path / "stranger", "stranger")
    path = world.write(world.document("not-theirs"))
    assert stranger.refused("agreement", "propose", path) == (10, "no_key_of_a_party")
    assert stranger.ok("agreement", "list") == {"agreements": []}
    real, none = (stranger("-o", "json", "agreement", "show", d) for d in (agreed, "sha256:" + "0" * 64))
    assert (real.code, real.err) == (none.code, none.err)
    assert real.code == 10


def test_an_unknown_agreement(world: World) -> None:
    """By name."""
    assert world["acme"].refused("agreement", "show", "nothing") == (2, "not_found")


def test_dry_runs_send_nothing(world: World, proposed: str) -> None:
    """Propose, approve and suspend show what they would send."""
    path = world.write(world.document("dry"))
    assert "/v1/agreements" in world["acme"].ok("agreement", "propose", path, "--dry-run")["would_send"]["url"]
    would = world["clinic"].ok("agreement", "approve", proposed, "--digest", proposed, "--dry-run")["would_send"]
    assert would["body"]["approval"]["payloadType"].endswith("approval+json")
    assert world["clinic"].ok("agreement", "show", proposed)["approved"] == []
    assert all(item["name"] != "dry" for item in world["acme"].ok("agreement", "list")["agreements"])


def test_suspend_and_lift(world: World, agreed: str) -> None:
    """At once, by the owner alone; exit code 13 for whoever then asks for a run."""
    owner, other = world["st-vitus"], world["acme"]
    assert other.refused("asset", "suspend", world.assets["scans"]) == (2, "not_found")
    assert "/v1/suspensions" in owner.ok("asset", "suspend", "scans", "--dry-run")["would_send"]["url"]
    assert owner.ok("asset", "suspend", "scans", "--agreement", agreed)["suspended"] is True
    try:
        assert owner.ok("agreement", "show", agreed)["suspended"] == ["scans"]
        assert other.refused("job", "submit", agreed, "train", "-p", "epochs=3") == (13, "asset_suspended")
    finally:
        assert owner.ok("asset", "lift", "scans")["suspended"] is False
    assert other.ok("job", "submit", agreed, "train", "-p", "epochs=3")["state"] == "queued"
