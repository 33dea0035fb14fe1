"""The SDK does all that the command line does: one road walked with `Client` alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.kit import PASSPHRASE
from cli.world import World
from perunml import Client, PerunError, operators
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


def test_a_dry_run_of_trust_and_infer_leaves_no_trace(world: World, tmp_path: Path) -> None:
    """The two that do not speak over the client's own connection: nothing is pinned, and no question is asked."""
    Client.create(tmp_path / "home", "careful", PASSPHRASE)
    with Client.open(tmp_path / "home", PASSPHRASE, dry_run=True) as client:
        assert client.dry_run
        assert client.trust(world.manager.url, world.manager.profile).identity == world.manager.identity
        assert client.home.pins() == {}
        with pytest.raises(WouldSend) as caught:
            client.infer("0" * 32, {"x": [1]}, endpoint="http://127.0.0.1:1")
        assert (caught.value.url, caught.value.body) == ("http://127.0.0.1:1/v1/sealed", b'{"x":[1]}')
    run = world.finished(world.agree("no-service"))
    with Client.open(world["acme"].home, PASSPHRASE, dry_run=True) as client, pytest.raises(PerunError) as none:
        client.infer(run, {"x": [1]})
    assert none.value.code == "not_found"


def test_what_asks_nobody(world: World, tmp_path: Path) -> None:
    """The verbs that work on files alone, with the manager away: check, review, schema, digest of a document, own assets."""
    path = world.write(world.document("offline"))
    with Client.open(world["acme"].home, PASSPHRASE) as client:
        document = client.check(path)
        assert document == client.check(path.read_bytes()) == Client.check(document)
        assert [section.title for section in client.review(path)] == [s.title for s in client.review(document, "acme")]
        assert client.review(path, "clinic") != client.review(path)
        assert "Agreement" in client.agreement_schema()["title"]
        assert ("unet", 1, world.assets["unet"]) in client.assets()
        assert Client.document_digest("Baseline", {"a": 1}) != Client.document_digest("Baseline", {"a": 2})
        assert client._connection is None


def test_outputs_of_all_runs(world: World) -> None:
    """Each with its run, as `output list` shows them."""
    run = world.finished(world.agree("outputs"))
    with Client.open(world["acme"].home, PASSPHRASE) as client:
        found = client.outputs("outputs")
    assert [(view.run, output.name) for view, output in found] == [(run, "metrics"), (run, "model")]


def test_an_operators_road_in_python(tmp_path: Path) -> None:
    """Make a manager, admit, serve, enrol a machine (first dry), and an agent that may not start where it is not enrolled."""
    with Client.create(tmp_path / "home", "operator", PASSPHRASE) as client:
        folder = tmp_path / "manager"
        identity = operators.make_manager(folder, PASSPHRASE, url="https://127.0.0.1:1")
        operators.admit(folder, [client.identity.public.identity])
        server = operators.manager(folder, PASSPHRASE, listen=("127.0.0.1", 0))
        _, port = server.start()
        try:
            profile = tmp_path / "profile.yaml"
            profile.write_text("{apiVersion: perunml/v1, kind: ManagerProfile, profile: {profile: simulated}}")
            assert client.trust(f"https://127.0.0.1:{port}", profile).identity == identity
            host = tmp_path / "host"
            with pytest.raises(WouldSend) as caught:
                operators.enrol(client, host, "laptop", dry_run=True, simulated_machine=True)
            assert caught.value.url.endswith("/v1/enrolments")
            assert not host.exists()
            enrolled = operators.enrol(client, host, "laptop", simulated_machine=True)
            assert operators.machine(host, simulated_machine=True).machine == enrolled.machine
            with pytest.raises(PerunError) as absent:
                operators.agent(client.pin, tmp_path / "new", simulated_machine=True).run_forever()
            assert absent.value.code in ("not_enrolled", "host_unfit")
        finally:
            server.stop()
    assert operators.doctor()
    for which in ({}, {"tcti": "x", "simulated_machine": True}):
        with pytest.raises(ValueError, match="say which machine"):
            operators.machine(tmp_path, **which)


def test_the_names_in_the_package() -> None:
    """Two, and no more."""
    import perunml

    assert perunml.PerunError is PerunError
    with pytest.raises(AttributeError):
        _ = perunml.Manager
