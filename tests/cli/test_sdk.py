"""The SDK does all that the command line does: one road walked with `Client` alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.kit import PASSPHRASE
from cli.world import World
from perunml import Client, PerunError
from perunml.client.connection import WouldSend
from perunml.client.runs import failure
from perunml.manager import setup


def test_the_road_in_python(world: World, tmp_path: Path) -> None:
    """Create, trust, seal, push, propose, approve, submit, wait, approve an output, pull, audit."""
    with Client.create(tmp_path / "home", "newcomer", PASSPHRASE) as client:
        setup.admit(world.manager.folder, [client.identity.public.identity])
        assert client.trust(world.manager.url, world.manager.profile) == client.pin
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "x.csv").write_text("1\n")
        sealed = client.seal(tmp_path / "data", name="data", kind="dataset")
        assert client.push("data").complete
        assert client.asset("data").asset == sealed.asset == client.asset(sealed.asset).asset
        assert "newcomer" in repr(client)
        assert PASSPHRASE.decode() not in repr(client)
    digest = world.agree("python")
    with Client.open(world["acme"].home, PASSPHRASE) as acme, Client.open(world["st-vitus"].home, PASSPHRASE) as vitus:
        assert digest in {view.digest for view in acme.agreements()}
        view, document = acme.agreement("python")
        assert (view.digest, acme.party_in(document)) == (document.digest, "acme")
        assert acme.propose(document).digest == digest
        assert acme.approve(digest).state == "in_force"
        run = acme.submit("python", "train", {"epochs": 3}, assets={"unet": world.assets["unet"]})
        world.machine.take(run.run, digest, lambda _: {"model": b'{"w":1}', "metrics": b'{"epoch":[1],"loss":[1]}'})
        seen: list[str] = []
        done = acme.wait(run.run, timeout=30, watch=lambda view: seen.append(view.state))
        assert (done.state, seen, failure(done)) == ("finished", ["finished"], None)
        assert run.run in {view.run for view in acme.runs("python")}
        with pytest.raises(PerunError) as held:
            acme.pull(run.run, "model", tmp_path / "model")
        assert held.value.exit_code == 18
        assert vitus.approve_output(run.run, "model").released_to == ["acme"]
        steps: list[tuple[int, int]] = []
        pulled = acme.pull(
            run.run, "model", tmp_path / "model", progress=lambda done, total: steps.append((done, total))
        )
        assert steps[-1][0] == steps[-1][1]
        assert acme.verify_receipt(pulled.receipt_file.read_bytes())["outputs"]["model"] == pulled.asset
        assert acme.verify_ledger().receipts >= 1
        assert vitus.suspend("scans", agreement=digest).suspended
        assert not vitus.suspend("scans", agreement=digest, lift=True).suspended


def test_a_dry_run_raises_what_it_would_send(world: World) -> None:
    """For programs that want to look first."""
    with Client.open(world["acme"].home, PASSPHRASE, dry_run=True) as client, pytest.raises(WouldSend) as caught:
        client.push("unet")
    assert caught.value.url.endswith("/v1/assets")


def test_the_names_in_the_package() -> None:
    """Two, and no more."""
    import perunml

    assert perunml.PerunError is PerunError
    with pytest.raises(AttributeError):
        _ = perunml.Manager
