"""The whole road through a bucket: from owners' homes into it, from it into the sandbox; and how a run ends that cannot read there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator

import pytest

from host.road import PASSPHRASE, Road
from host.test_road import TRAIN
from perunml.client import assets, buckets, outputs
from perunml.manager import stores
from perunml.wire.errors import LimitReached
from sealing.bucket import ACCOUNT, NAME, Bucket

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="the agent runs as root, here and in CI"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed; `make setup` installs it"),
]


@pytest.fixture
def bucket(road: Road) -> Iterator[Bucket]:
    made = Bucket()
    file = road.folder / "account.json"
    file.write_text(json.dumps(ACCOUNT.as_json() | {"token": ""}))
    stores.add(road.folder / "manager", "lake", PASSPHRASE, s3=made.url, bucket=NAME, credentials=file)
    road.store = "lake"
    yield made
    made.close()


def test_a_training_reads_its_inputs_from_a_bucket(road: Road, bucket: Bucket) -> None:
    """Owners push by name of the store; the job sees files as ever, and its output comes back through the manager."""
    road.enrol()
    run = road.submit(road.agree(TRAIN))
    road.start_agent()
    view = road.wait_state(run, "finished")
    assert {method for method, _ in bucket.seen} >= {"PUT", "HEAD", "GET"}
    held = {path.name for path in (road.folder / "manager" / "blobs").iterdir()}
    assert held == {output.asset.removeprefix("sha256:") for output in view.outputs}
    pulled = outputs.pull(
        road.startup.connection, road.startup.home, road.startup.identity, run, "model", road.folder / "model"
    )
    (file,) = [path for path in pulled.folder.rglob("*") if path.is_file()]
    assert json.loads(file.read_text())["rows"] == ["a.csv", "deep"]


def test_a_run_that_finds_blobs_gone_is_told_so(road: Road, bucket: Bucket) -> None:
    """It fails, and the requester reads which code it was; pushed again, the next run finishes."""
    road.enrol()
    agreement = road.agree(TRAIN)
    bucket.clear()
    run = road.submit(agreement)
    road.start_agent()
    view = road.wait_state(run, "failed")
    assert [reason["code"] for reason in view.reasons] == ["blob_missing"]
    for party, name in ((road.hospital, "scans"), (road.startup, "unet")):
        assert assets.push(party.connection, party.home, party.identity, name).complete
    assert road.wait_state(road.submit(agreement), "finished").outputs


def test_a_bucket_that_goes_away_ends_a_run(road: Road, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever: the run fails, with a code that says who mends it."""
    road.enrol()
    agreement = road.agree(TRAIN)
    bucket.remove()
    run = road.submit(agreement)
    road.start_agent()
    view = road.wait_state(run, "failed")
    assert [reason["code"] for reason in view.reasons] == ["store_refused"]
    assert "X-Amz" not in view.model_dump_json()
    assert "X-Amz" not in json.dumps(road.events)
    bucket.make()


def test_a_file_too_large_for_one_object(road: Road, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is sent."""
    monkeypatch.setattr(buckets, "MOST", 100)
    party = road.hospital
    (road.folder / "plain").mkdir()
    (road.folder / "plain" / "a").write_bytes(os.urandom(200))
    assets.seal(party.home, party.identity, road.folder / "plain", name="large", kind="dataset")
    with pytest.raises(LimitReached) as caught:
        assets.push(party.connection, party.home, party.identity, "large", store="lake")
    assert caught.value.code == "blob_too_large"
    assert bucket.held() == []
