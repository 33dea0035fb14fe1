"""A pinned manager that lies: whatever it puts in place of an honest answer, the party finds out before it acts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.kit import PASSPHRASE
from cli.world import World
from perunml import Client
from perunml.api.agreements import AgreementView
from perunml.api.ledger import EntryList, InclusionProof
from perunml.api.runs import OutputDelivery
from perunml.client.connection import Connection
from perunml.wire.digests import digest
from perunml.wire.errors import PerunError

Change = Callable[[Any], dict[str, Any]]


@pytest.fixture(scope="module")
def agreed(world: World) -> str:
    return world.agree("lies")


@pytest.fixture(scope="module")
def runs(world: World, agreed: str) -> tuple[str, str]:
    """Two finished runs: what is true of one is a lie about the other."""
    return world.finished(agreed), world.finished(agreed)


@pytest.fixture
def lie(monkeypatch: pytest.MonkeyPatch) -> Callable[[type, Change], None]:
    """From now on answers of a type come changed."""
    call = Connection.call

    def begin(answer: type, change: Change) -> None:
        def changed(self: Connection, method: str, path: str, wanted: type, body: Any = None) -> Any:
            found = call(self, method, path, wanted, body)
            return found.model_copy(update=change(found)) if wanted is answer else found

        monkeypatch.setattr(Connection, "call", changed)

    return begin


def delivery(world: World, run: str, name: str) -> OutputDelivery:
    """An honest delivery."""
    with Client.open(world["st-vitus"].home, PASSPHRASE) as client:
        asset = next(output.asset for output in client.run(run).outputs if output.name == name)
        return client.connection.call("GET", f"/v1/outputs/{asset}/delivery", OutputDelivery)


@pytest.mark.parametrize(
    "member", ["run", "output", "agreement", "manifest", "receipt", "signer", "sealed_key", "party"]
)
def test_a_delivery_of_something_else(
    world: World, runs: tuple[str, str], member: str, lie: Callable[[type, Change], None], tmp_path: Path
) -> None:
    """Run, output, manifest, receipt, signer and key belong together, or nothing is unpacked."""
    others = {"output": "model", "agreement": digest(b"another"), "party": "acme"}
    other = delivery(world, runs[1], "metrics").model_copy(update=others)
    lie(OutputDelivery, lambda honest: {member: getattr(other, member)})
    code, _ = world["st-vitus"].refused("output", "pull", runs[0], "metrics", "--to", tmp_path / "metrics")
    assert code == 14
    assert list(tmp_path.iterdir()) == []


def test_another_run_s_output_whole(
    world: World, runs: tuple[str, str], lie: Callable[[type, Change], None], tmp_path: Path
) -> None:
    """Each part fits the others, and none is what was asked for."""
    other = delivery(world, runs[1], "metrics")
    lie(OutputDelivery, lambda honest: {name: getattr(other, name) for name in OutputDelivery.model_fields})
    found = world["st-vitus"].refused("output", "pull", runs[0], "metrics", "--to", tmp_path / "metrics")
    assert found == (14, "output_mismatch")


def test_another_agreement_to_be_approved(world: World, agreed: str, lie: Callable[[type, Change], None]) -> None:
    """P5: the document whose digest was asked for, or none."""
    other = world["acme"].ok("agreement", "propose", world.write(world.document("bait")))["digest"]
    with Client.open(world["acme"].home, PASSPHRASE) as client:
        bait = client.agreement(other)[0]
    lie(AgreementView, lambda honest: {"agreement": bait.agreement})
    assert world["clinic"].refused("agreement", "approve", agreed, "--digest", agreed) == (14, "wrong_document")
    assert world["clinic"].refused("agreement", "review", agreed) == (14, "wrong_document")


@pytest.mark.parametrize("lie_about", ["left-out", "order", "entry", "salt", "leaf", "index"])
def test_a_ledger_that_tells_another_story(
    world: World, agreed: str, runs: tuple[str, str], lie_about: str, lie: Callable[[type, Change], None]
) -> None:
    """P16: an entry left out, moved or altered breaks the chain, the leaf or the proof."""

    def change(honest: EntryList) -> dict[str, Any]:
        entries = list(honest.entries)
        if len(entries) < 4:
            return {}
        first, second = entries[0], entries[1]
        if lie_about == "left-out":
            entries.pop(2)
        elif lie_about == "order":
            entries[1:3] = reversed(entries[1:3])
        elif lie_about == "entry":
            entries[1] = second.model_copy(update={"entry": {**second.entry, "subject": "somebody else"}})
        elif lie_about == "index":
            entries[-1] = entries[-1].model_copy(update={"index": entries[-1].index - 1})
        else:
            entries[1] = second.model_copy(update={lie_about: getattr(first, lie_about)})
        return {"entries": entries}

    lie(EntryList, change)
    code, reason = world["gpu-cloud"].refused("ledger", "verify")
    assert (code, reason) in ((14, "broken_chain"), (14, "bad_leaf"), (14, "bad_inclusion_proof"))


def test_proofs_that_prove_nothing(world: World, runs: tuple[str, str], lie: Callable[[type, Change], None]) -> None:
    """P16: an inclusion proof of another entry."""
    lie(InclusionProof, lambda honest: {"hashes": [bytes(32) for _ in honest.hashes]})
    assert world["gpu-cloud"].refused("ledger", "verify") == (14, "bad_inclusion_proof")


def test_a_part_that_is_short(
    world: World, runs: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ciphertext that was cut."""
    raw = Connection.raw

    def short(self: Connection, method: str, path: str, *args: Any, **kwargs: Any) -> bytes:
        data = raw(self, method, path, *args, **kwargs)
        return data[:-1] if "/blobs/" in path else data

    monkeypatch.setattr(Connection, "raw", short)
    found = world["st-vitus"].refused("output", "pull", runs[0], "metrics", "--to", tmp_path / "metrics")
    assert found == (14, "output_mismatch")
    assert list(tmp_path.iterdir()) == []


def test_without_lies_it_all_goes_well(world: World, runs: tuple[str, str], tmp_path: Path) -> None:
    """The same commands, honest answers."""
    world["st-vitus"].ok("output", "pull", runs[0], "metrics", "--to", tmp_path / "metrics")
    assert world["gpu-cloud"].ok("ledger", "verify")["seen"] is not None
    with Client.open(world["gpu-cloud"].home, PASSPHRASE) as client, pytest.raises(PerunError):
        client.pull(runs[0], "metrics", tmp_path / "not-for-the-operator")
