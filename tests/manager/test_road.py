"""The whole road over real TLS: sealed in, agreed, released, renewed, sealed out, delivered, served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.road import Road
from manager.world import World, code_of
from perunml.api.ledger import EntryList
from perunml.api.runs import QuotaRequest, RunList
from perunml.api.service import ServiceCertificate
from perunml.client.audit import verify_ledger
from perunml.client.home import Home
from perunml.ledger.receipts import open_receipt
from perunml.sealing.reader import SealedReader
from perunml.sealing.store import FolderStore
from perunml.wire.digests import digest_of
from perunml.wire.identity import PublicKey


@pytest.fixture(scope="module")
def road(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    return Road(world, tmp_path_factory.mktemp("road"))


def test_train_and_deliver(road: Road) -> None:
    """A run is offered, released, renewed and finished; its output opens for the recipient and for nobody else."""
    run = road.submit()
    assert run.state == "queued"
    assert run.run in [item.run for item in road.trainer.link.work().items]
    assert road.server.link.work().items == []
    session, delivery = road.release(run.run)
    assert road.run(run.run).state == "running"
    assert delivery.parameters == {"epochs": 2, "seed": 7}
    assert delivery.entry == "train.py"
    assert delivery.simulated
    assert bytes(delivery.inputs["scans"].key) == bytes(road.scans.key)
    assert bytes(delivery.inputs["code"].key) == bytes(road.unet.key)
    blob = road.scans.manifest.all_blobs[0]
    size = road.scans.manifest.sealed_size(blob)
    assert len(session.link.read_blob(road.scans.digest, blob.id, 0, size)) == size
    for _ in range(3):
        assert session.renew().lease_seconds == 30
    sealed = road.output(session, delivery)
    finished = session.finish({"model": sealed.digest})
    receipt = open_receipt(finished.receipt, PublicKey(road.world.pin.identity))
    assert receipt.outputs == {"model": sealed.digest}
    assert receipt.code == road.unet.digest
    assert receipt.host.simulated
    view = road.run(run.run)
    assert (view.state, [o.released_to for o in view.outputs]) == ("finished", [["startup"]])
    delivered = road.delivery(sealed.digest)
    info = {
        "label": "perunml/output-key", "manager": road.world.pin.identity, "agreement": road.agreement.digest,
        "run": run.run, "output": "model", "asset": sealed.digest, "party": "startup",
    }  # fmt: skip
    key = road.receiving["startup"].open(delivered.sealed_key, info)
    with FolderStore(sealed.folder) as store, SealedReader(sealed.manifest, key, store) as reader:
        assert reader.read_file("model.pt2") == b"weights"
    assert code_of(lambda: road.delivery(sealed.digest, "hospital")) == "recipient_not_agreed"
    first = sealed.manifest.all_blobs[0]
    path = f"/v1/assets/{sealed.digest}/blobs/{first.id}?offset=0&length=16"
    assert len(road.party["startup"].raw("GET", path)) == 16
    assert code_of(lambda: road.party["hospital"].raw("GET", path)) == "not_entitled"


def test_serve_what_was_trained(road: Road) -> None:
    """A service gets the newest finished run's model, certificates that change with each renewal, and its quota."""
    _, sealed, _ = road.trained(b"served weights")
    run = road.submit("serve", "cloud")
    assert [item.kind for item in road.server.link.work().items if item.run == run.run] == ["serve"]
    session, delivery = road.release(run.run, road.server, "https://127.0.0.1:9")
    assert delivery.inputs["model"].asset == sealed.digest
    assert delivery.clients == {"clinic": [road.keys["clinic"].public.text]}
    assert delivery.service_certificate is not None
    manager = [PublicKey(road.world.pin.identity)]
    certificate = ServiceCertificate.open(delivery.service_certificate, manager)
    assert certificate.model == sealed.digest
    assert certificate.hpke == session.hpke.public.text
    assert certificate.simulated
    renewed = session.renew()
    assert renewed.service_certificate is not None
    assert ServiceCertificate.open(renewed.service_certificate, manager).session_key == certificate.session_key
    # What was found of the host is in the ledger, for the parties: each receipt of this service names it.
    path = f"/v1/ledger/entries?agreement={road.agreement.digest}"
    entries = [each.entry for each in road.party["clinic"].call("GET", path, EntryList).entries]
    (found,) = [each["body"] for each in entries if each["type"] == "release" and each["subject"] == run.run]
    assert certificate.verdict == digest_of(found["verdict"])
    assert ServiceCertificate.open(renewed.service_certificate, manager).verdict == certificate.verdict
    assert road.run(run.run, "clinic").endpoint == "https://127.0.0.1:9"
    assert session.link.quota(run.run, QuotaRequest(wanted=7)).granted == 7
    assert session.link.quota(run.run, QuotaRequest(wanted=7)).granted == 3
    empty = session.link.quota(run.run, QuotaRequest(wanted=1))
    assert (empty.granted, empty.retry_seconds > 0) == (0, True)
    session.finish({})
    assert road.run(run.run).state == "finished"


def test_ledger_holds_it_all(road: Road, tmp_path: Path) -> None:
    """Each party can open and prove every entry of its agreement, and nobody else sees one."""
    run, _, finished = road.trained()
    home = Home(tmp_path)
    home.create()
    audit = verify_ledger(road.party["hospital"], home, [road.agreement.digest])
    assert audit.size > finished.entry
    path = f"/v1/ledger/entries?agreement={road.agreement.digest}"
    entries = road.party["hospital"].call("GET", path, EntryList).entries
    kinds = [entry.entry["type"] for entry in entries]
    assert kinds[:6] == ["agreement", "approval", "approval", "approval", "approval", "in-force"]
    assert {"run", "release", "finished"} <= set(kinds)
    assert [entry.entry["subject"] for entry in entries if entry.index == finished.entry] == [run]
    stranger = road.world.party()
    assert code_of(lambda: stranger.call("GET", path, EntryList)) == "not_entitled"
    assert verify_ledger(road.party["hospital"], home, [road.agreement.digest]).seen == audit.size


def test_runs_are_listed_for_parties_only(road: Road) -> None:
    """A party lists its agreements' runs; a stranger has none and sees none."""
    run = road.submit().run
    listed = road.party["hospital"].call("GET", f"/v1/runs?agreement={road.agreement.digest}", RunList)
    assert run in [item.run for item in listed.runs]
    stranger = road.world.party()
    assert stranger.call("GET", "/v1/runs", RunList).runs == []
    assert code_of(lambda: stranger.call("GET", f"/v1/runs/{run}", RunList)) == "not_entitled"


def test_failed_job_has_a_receipt_and_no_outputs(road: Road) -> None:
    """A job's own failure is told by its class."""
    run, session, _ = road.started()
    session.finish({}, error="code_failed")
    view = road.run(run)
    assert (view.state, view.outputs, view.reasons[0]["code"]) == ("failed", [], "code_failed")
    assert view.receipt is not None
