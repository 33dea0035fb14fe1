"""A run's checkpoints at the manager: which is kept, who opens it, and what is refused."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manager.road import Road, Sealed, seal, upload
from manager.world import World
from perunml.api.assets import AssetView
from perunml.api.runs import CheckpointKey, KeyDelivery, RegisterCheckpoint
from perunml.client.audit_export import export
from perunml.client.audit_verify import verify_export
from perunml.client.home import Home
from perunml.host.checkpoints import FILE_NAME
from perunml.host.session import Session
from perunml.manager import sweep
from perunml.sealing.packed import packed_size
from perunml.wire.errors import AgreementRefusal, PerunError, SuspendedError
from perunml.wire.identity import PublicKey

MOST = 1000


class Kept(Road):
    """A road whose training keeps checkpoints."""

    def document(self) -> dict[str, Any]:
        made = super().document()
        made["jobs"]["train"] |= {"checkpoints": {"max_size": f"{MOST}B", "every": "1s"}}
        made["jobs"]["train"]["limits"] |= {"resumes": 5}
        return made


@pytest.fixture
def road(own_world: World, tmp_path: Path) -> Kept:
    return Kept(own_world, tmp_path / "road", lease="2s")


def terms(delivery: KeyDelivery) -> CheckpointKey:
    assert delivery.checkpoints is not None
    return delivery.checkpoints


def made(road: Road, session: Session, keys: CheckpointKey, number: int, **changes: Any) -> Sealed:
    said: dict[str, Any] = {"data_key": keys.key, "asset_id": keys.asset_id, "version": number, **changes}
    kind, size = said.pop("kind", "checkpoint"), said.pop("size", packed_size(MOST))
    return seal(road.folder / os.urandom(8).hex(), session.signer, FILE_NAME, kind, {FILE_NAME: b"%d" % number + bytes(size - len(b"%d" % number))}, **said)  # fmt: skip


def register(session: Session, sealed: Sealed) -> AssetView:
    return session.link.register_checkpoint(session.run, RegisterCheckpoint(manifest=sealed.envelope))


def keep(road: Road, session: Session, keys: CheckpointKey, number: int) -> Sealed:
    sealed = made(road, session, keys, number)
    assert not register(session, sealed).complete
    upload(sealed, lambda blob, offset, part: session.link.write_blob(sealed.digest, blob, offset, part))
    assert register(session, sealed).complete
    return sealed


def wait(look: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not look():
        assert time.monotonic() < end
        time.sleep(0.1)


def lost(road: Road, run: str) -> tuple[Session, KeyDelivery]:
    """The run again, after its lease ended."""
    wait(lambda: road.run(run).state == "queued")
    return road.release(run)


def blobs(road: Road, sealed: Sealed) -> bool:
    return (road.world.folder / "blobs" / sealed.digest.removeprefix("sha256:")).exists()


@pytest.fixture(autouse=True)
def _swept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Often enough to be waited for."""
    monkeypatch.setattr(sweep, "NONCES_EVERY", 0.2)


def test_the_last_kept_one_is_opened_by_the_next_session_of_the_run(road: Kept) -> None:
    """Not one whose bytes are not all there, and not the one before, which is gone."""
    run, session, delivery = road.started()
    keys = terms(delivery)
    assert (keys.number, keys.last, keys.max_size, keys.every) == (1, None, MOST, 1)
    first, second = (keep(road, session, keys, number) for number in (1, 2))
    assert not blobs(road, first)
    unfinished = made(road, session, keys, 3)
    register(session, unfinished)
    again, delivered = lost(road, run)
    resumed = terms(delivered)
    assert resumed.last is not None
    assert (resumed.last.asset, resumed.number, resumed.key, resumed.asset_id) == (
        second.digest,
        4,
        keys.key,
        keys.asset_id,
    )
    assert resumed.last.owners == [session.signer.public.text]
    entry = next(blob for blob in second.manifest.all_blobs)
    again.link.read_blob(second.digest, entry.id, 0, 100)
    with pytest.raises(PerunError):
        again.link.read_blob(unfinished.digest, unfinished.manifest.index.id, 0, 1)
    fourth = keep(road, again, resumed, 4)
    assert not blobs(road, second)
    output = road.output(again, delivered)
    answer = again.finish({"model": output.digest})
    body = answer.receipt.open("Receipt", [PublicKey(road.world.pin.identity)])
    assert body["inputs"]["#checkpoint"] == second.digest
    wait(lambda: not blobs(road, fourth))
    assert blobs(road, output)


def test_a_host_that_begins_ever_new_ones_holds_the_room_of_two(road: Kept) -> None:
    """Each that is registered and never finished goes when the next one comes; the kept one stays."""
    _, session, delivery = road.started()
    kept = keep(road, session, terms(delivery), 1)
    begun = []
    for number in (2, 3, 4):
        begun.append(made(road, session, terms(delivery), number))
        register(session, begun[-1])
        blob = begun[-1].manifest.index
        session.link.write_blob(begun[-1].digest, blob.id, 0, bytes(begun[-1].manifest.sealed_size(blob)))
    assert [blobs(road, each) for each in (kept, *begun)] == [True, False, False, True]
    with pytest.raises(AgreementRefusal) as caught:
        session.link.write_blob(begun[0].digest, begun[0].manifest.blobs[0].id, 0, b"x")
    assert caught.value.code == "not_entitled"


def test_another_run_never_gets_it(road: Kept) -> None:
    """Neither by its release nor by its lease."""
    _, session, delivery = road.started()
    sealed = keep(road, session, terms(delivery), 1)
    _, other, delivered = road.started()
    assert terms(delivered).last is None
    assert terms(delivered).key != terms(delivery).key
    for refused in (
        lambda: other.link.read_blob(sealed.digest, sealed.manifest.index.id, 0, 1),
        lambda: other.link.register_checkpoint(session.run, RegisterCheckpoint(manifest=sealed.envelope)),
        lambda: road.party["startup"].call("GET", f"/v1/assets/{sealed.digest}", AssetView),
        lambda: road.party["startup"].raw(
            "GET", f"/v1/assets/{sealed.digest}/blobs/{sealed.manifest.index.id}?offset=0&length=1"
        ),
        lambda: road.delivery(sealed.digest),
    ):
        with pytest.raises(AgreementRefusal) as caught:
            refused()
        assert caught.value.code == "not_entitled"


@pytest.mark.parametrize(
    "changes",
    [{"kind": "output"}, {"asset_id": "ab" * 16}, {"size": packed_size(MOST) + 1}, {"size": packed_size(MOST) - 1}, {"version": 1}],
    ids=["output", "other id", "larger", "smaller", "number again"],
)  # fmt: skip
def test_what_is_not_this_runs_next_one_is_refused(road: Kept, changes: dict[str, Any]) -> None:
    """Its kind, its run, its padded size, its number."""
    _, session, delivery = road.started()
    keep(road, session, terms(delivery), 1)
    with pytest.raises(AgreementRefusal) as caught:
        register(session, made(road, session, terms(delivery), 2, **changes))
    assert caught.value.code == "checkpoint_refused"


def test_where_the_agreement_has_none_none_is_taken(own_world: World, tmp_path: Path) -> None:
    """And none is delivered."""
    road = Road(own_world, tmp_path / "road")
    _, session, delivery = road.started()
    assert delivery.checkpoints is None
    keys = CheckpointKey(key=bytes(32), asset_id="ab" * 16, number=1, every=1, max_size=MOST)
    with pytest.raises(AgreementRefusal) as caught:
        register(session, made(road, session, keys, 1))
    assert caught.value.code == "checkpoint_refused"


def test_a_suspended_asset_stops_checkpoints_too(road: Kept) -> None:
    """P: what is derived from it is not kept either."""
    _, session, delivery = road.started()
    road.suspend("scans", "hospital")
    with pytest.raises(SuspendedError) as caught:
        register(session, made(road, session, terms(delivery), 1))
    assert caught.value.code == "asset_suspended"


def test_an_audit_sees_a_run_that_went_on_from_another_checkpoint(
    road: Kept, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A manager that opens an older one says so in its own ledger."""
    from perunml.manager import delivery as module

    run, session, delivered = road.started()
    keep(road, session, terms(delivered), 1)
    honest = module.checkpoints.delivered

    def older(*arguments: Any) -> Any:
        found = honest(*arguments)
        assert found is not None
        assert found.last is not None
        return found.model_copy(update={"last": found.last.model_copy(update={"asset": road.scans.digest})})

    monkeypatch.setattr(module.checkpoints, "delivered", older)
    lost(road, run)
    home = Home(tmp_path / "home")
    home.folder.mkdir()
    export(road.party["hospital"], home, [road.agreement.digest], tmp_path / "ledger.zip")
    with pytest.raises(PerunError, match="last checkpoint"):
        verify_export(tmp_path / "ledger.zip", PublicKey(road.world.pin.identity))
    road.world.parties.clear()  # this manager's history does not follow, as it should not
