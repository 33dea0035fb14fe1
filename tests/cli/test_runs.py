"""Runs and what comes out of them, against a real manager and a machine that speaks the real protocol."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cli.manager import PASSPHRASE
from cli.world import SECRET, World, living
from perunml.ledger.receipts import open_receipt, sign_receipt
from perunml.manager.setup import unlock
from perunml.wire.digests import digest
from perunml.wire.dsse import Envelope


@pytest.fixture(scope="module")
def agreed(world: World) -> str:
    return world.agree("runs")


@pytest.fixture(scope="module")
def run(world: World, agreed: str) -> str:
    """A finished run."""
    return world.finished(agreed)


def test_before_it_is_in_force(world: World) -> None:
    """Exit code 12: somebody has still to approve."""
    digest = world["acme"].ok("agreement", "propose", world.write(world.document("early")))["digest"]
    found = world["acme"].refused("job", "submit", digest, "train", "-p", "epochs=3")
    assert found == (12, "agreement_not_in_force")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["train", "-p", "epochs=51"], "parameter_out_of_range"),
        (["train", "-p", "epochs=many"], "parameter_out_of_range"),
        (["train"], "parameter_missing"),
        (["elsewhere"], "job_unknown"),
        (["train", "-p", "epochs=3", "--asset", "unet=sha256:" + "0" * 64], "digest_not_agreed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_agreement_does_not_allow(world: World, agreed: str, words: list[str], reason: str) -> None:
    """Exit code 10, before any machine is asked."""
    code, found = world["acme"].refused("job", "submit", agreed, *words)
    assert code == 10
    if reason != "parameter_missing":
        assert found == reason


def test_usage(world: World, agreed: str) -> None:
    """name=value, each once."""
    for words in (["-p", "epochs"], ["-p", "a=1", "-p", "a=2"], ["--asset", "=x"]):
        assert world["acme"].refused("job", "submit", agreed, "train", *words) == (2, "usage")


def test_a_run_that_nobody_takes_yet(world: World, agreed: str) -> None:
    """Exit code 12 after the time that was to be waited, and the command to wait on."""
    queued = world.submit(agreed)
    said = world["acme"]("job", "wait", queued, "--timeout", "0.1")
    assert (said.code, said.reasons) == (12, ["not_finished"])
    assert f"perunml job wait {queued}" in said.err
    assert world["acme"].ok("job", "show", queued)["state"] == "queued"
    assert queued in world.machine.work()


def test_dry_run_of_submit(world: World, agreed: str) -> None:
    """Nothing is queued."""
    before = len(world["acme"].ok("job", "list")["runs"])
    would = world["acme"].ok("job", "submit", agreed, "train", "-p", "epochs=3", "--dry-run")["would_send"]
    assert would["url"].endswith("/v1/runs")
    assert len(world["acme"].ok("job", "list")["runs"]) == before


def test_a_run_that_went_well(world: World, agreed: str, run: str) -> None:
    """Wait ends with code 0; the list shows it; simulated is said."""
    view = world["acme"].ok("job", "wait", run, "--timeout", "30")
    assert (view["state"], view["simulated"], view["host"]) == ("finished", True, world.machine.name)
    assert {output["name"] for output in view["outputs"]} == {"model", "metrics"}
    assert run in {item["run"] for item in world["st-vitus"].ok("job", "list", "--agreement", "runs")["runs"]}
    assert "finished (simulated)" in world["acme"]("job", "list").out


def test_a_job_that_failed(world: World, agreed: str) -> None:
    """Exit code 17; the run is told on stdout all the same."""
    failing = world.submit(agreed)
    world.machine.take(failing, agreed, error="code_failed")
    said = world["acme"]("-o", "json", "job", "wait", failing, "--timeout", "30")
    assert (said.code, said.json["state"], said.reasons[0]) == (17, "failed", "run_failed")
    assert world["acme"].ok("job", "show", failing)["state"] == "failed"


def test_more_runs_than_agreed(world: World) -> None:
    """Exit code 15."""
    digest = world.agree("one-run", runs=1)
    world.finished(digest)
    assert world["acme"].refused("job", "submit", digest, "train", "-p", "epochs=3") == (15, "runs_exhausted")


def test_an_output_that_waits_for_a_word(world: World, agreed: str, run: str, tmp_path: Path) -> None:
    """Exit code 18 until st-vitus approves; then it unpacks, with a receipt that verifies offline."""
    acme, owner, target = world["acme"], world["st-vitus"], tmp_path / "model"
    held = acme("-o", "json", "model", "pull", run, "--to", target)
    assert (held.code, held.reasons) == (18, ["output_held"])
    assert not target.exists()
    assert "/approvals" in owner.ok("output", "approve", run, "model", "--dry-run")["would_send"]["url"]
    assert owner.ok("output", "approve", run, "model")["released_to"] == ["acme"]
    pulled = acme.ok("model", "pull", run, "--to", target)
    assert (target / "model.json").read_bytes() == b'{"w":[1,2,3]}'
    assert pulled["files"] == {"model.json": 13}
    assert pulled["simulated"] is True
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    body = acme("-o", "json", "receipt", "verify", pulled["receipt"], passphrase=None).json["receipt"]
    assert body["outputs"]["model"] == pulled["asset"]
    assert body["inputs"]["scans"] == world.assets["scans"]
    assert acme.refused("model", "pull", run, "--to", target) == (2, "already_exists")


def test_an_output_for_others(world: World, agreed: str, run: str, tmp_path: Path) -> None:
    """Metrics go to both; the clinic gets nothing; an output of no such name is none."""
    for name in ("acme", "st-vitus"):
        world[name].ok("output", "pull", run, "metrics", "--to", tmp_path / name)
        assert (tmp_path / name / "metrics.json").exists()
    code, _ = world["clinic"].refused("output", "pull", run, "metrics", "--to", tmp_path / "clinic")
    assert code in (10, 18)
    assert world["acme"].refused("output", "pull", run, "nothing", "--to", tmp_path / "x") == (18, "no_output")
    listed = world["acme"].ok("output", "list", "--agreement", "runs")["outputs"]
    assert {(item["name"], item["simulated"]) for item in listed} == {("model", True), ("metrics", True)}


def test_an_altered_output_is_not_unpacked(world: World, agreed: str, tmp_path: Path) -> None:
    """The manager's disk was tampered with: exit code 14, nothing is left in the folder."""
    run = world.finished(agreed)
    asset = next(o["asset"] for o in world["acme"].ok("job", "show", run)["outputs"] if o["name"] == "metrics")
    blobs = [
        path
        for path in world.manager.folder.rglob("*")
        if path.is_file() and asset.removeprefix("sha256:") in str(path)
    ]
    assert blobs
    for path in blobs:
        data = bytearray(path.read_bytes())
        data[0] ^= 1
        path.write_bytes(data)
    found = world["acme"].refused("output", "pull", run, "metrics", "--to", tmp_path / "metrics")
    assert found == (14, "tree_mismatch")
    assert list(tmp_path.iterdir()) == []


def test_the_receipt_of_a_run(world: World, run: str, agreed: str, tmp_path: Path) -> None:
    """`job show --receipt`; none before the end."""
    path = tmp_path / "receipt.json"
    world["st-vitus"].ok("job", "show", run, "--receipt", path)
    assert world["clinic"]("receipt", "verify", path, passphrase=None).code == 0
    queued = world.submit(agreed)
    assert world["acme"].refused("job", "show", queued, "--receipt", tmp_path / "none") == (12, "not_finished")
    assert not (tmp_path / "none").exists()


def test_a_run_of_nobody(world: World) -> None:
    """An id that is none, and one that is unknown."""
    for run in ("0" * 32, "../x", "x y"):
        assert world["acme"].refused("job", "show", run)[0] in (2, 10)


def test_the_ledger_grows_and_holds_everything(world: World, agreed: str, run: str) -> None:
    """First seen, then contained in what is seen later."""
    shutil.rmtree(world["clinic"].home / "ledger", ignore_errors=True)  # whatever it did before, it looked
    first = world["clinic"].ok("ledger", "verify")
    assert first["seen"] is None
    assert first["agreements"][agreed] > 0
    world.finished(agreed)
    second = world["clinic"].ok("ledger", "verify")
    assert second["seen"] == first["size"] < second["size"]
    assert second["agreements"][agreed] > first["agreements"][agreed]
    assert world["clinic"].ok("ledger", "verify") == {**second, "seen": second["size"]}


def test_a_receipt_that_the_ledger_does_not_hold(world: World, agreed: str, run: str, tmp_path: Path) -> None:
    """A manager that signs what it never recorded is found out by whoever kept the receipt."""
    party = world["st-vitus"]
    party.ok("output", "pull", run, "metrics", "--to", tmp_path / "metrics")
    assert party.ok("ledger", "verify")["receipts"] >= 1
    manager = unlock(world.manager.folder, PASSPHRASE).identity
    kept = party.home / "receipts" / f"{run}.json"
    honest = kept.read_bytes()
    receipt = open_receipt(Envelope.decode(honest), manager.public)
    kept.write_bytes(sign_receipt(replace(receipt, entry_hash=digest(b"never")), manager).encode())
    try:
        assert party.refused("ledger", "verify") == (14, "bad_inclusion_proof")
    finally:
        kept.write_bytes(honest)


def test_a_manager_restored_from_an_old_copy(tmp_path: Path) -> None:
    """S1, P17: who saw more before says so; exit code 14."""
    copy = tmp_path / "copy"
    with living(tmp_path / "world") as world:
        agreed = world.agree("old")
    folder = world.manager.folder
    shutil.copytree(folder, copy)
    with world.manager.running(world.manager.port):
        world.submit(agreed)
        world["acme"].ok("ledger", "verify")
    shutil.rmtree(folder)
    copy.rename(folder)
    with world.manager.running(world.manager.port):
        assert world["acme"].refused("ledger", "verify")[0] == 14
        assert world["acme"].refused("ledger", "verify")[1] == "ledger_rollback"


def test_nothing_secret_was_said_or_left(world: World, run: str) -> None:
    """No plaintext in any folder but the owner's own source; no log shows a key."""
    for name in ("acme", "gpu-cloud", "clinic"):
        for file in world[name].home.rglob("*"):
            assert not file.is_file() or SECRET.encode() not in file.read_bytes()
    for file in world.manager.folder.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()
