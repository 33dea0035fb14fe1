"""Assets: who may push what, uploads that break off, and stored keys that are swapped."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manager.road import Road, Sealed, push, push_message, seal, upload
from manager.world import World, code_of
from perunml.api.assets import AssetView, DocumentView, PushDocument
from perunml.client import assets
from perunml.client.connection import Connection
from perunml.client.home import Home
from perunml.client.identity import Identity
from perunml.sealing import journal as journals
from perunml.sealing import writer
from perunml.sealing.keys import WrappedKeys, new_data_key, wrap_key
from perunml.sealing.manifest import open_manifest
from perunml.sealing.store import FolderStore
from perunml.wire.dsse import signed
from perunml.wire.hpke import HpkePrivateKey, HpkePublicKey
from perunml.wire.identity import SigningKey


@pytest.fixture
def owner() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def party(world: World, owner: SigningKey) -> Connection:
    return world.party(owner)


@pytest.fixture
def sealed(tmp_path: Path, owner: SigningKey) -> Sealed:
    return seal(tmp_path / "sealed", owner, "scans", "dataset", {"a": os.urandom(300_000)}, chunk_size=65536)


def register(party: Connection, sealed: Sealed, **changes: Any) -> AssetView:
    message = push_message(sealed, party.pin.intake)
    return party.call("POST", "/v1/assets", AssetView, message.model_copy(update=changes))


def test_upload_goes_on_where_it_stopped(party: Connection, sealed: Sealed) -> None:
    """Parts come in order, a part that is held is taken again, and what breaks off is resumed."""
    assert not register(party, sealed).complete
    blob = max(sealed.manifest.all_blobs, key=lambda entry: entry.size)
    size = sealed.manifest.sealed_size(blob)
    data = bytearray(size)
    with FolderStore(sealed.folder) as store:
        store.read(blob.id, 0, memoryview(data))

    def put(offset: int, part: bytes) -> AssetView:
        path = f"/v1/assets/{sealed.digest}/blobs/{blob.id}?offset={offset}"
        return AssetView.decode(party.raw("PUT", path, part))

    assert put(0, bytes(data[:1000])).received[blob.id] == 1000
    assert put(0, bytes(data[:1000])).received[blob.id] == 1000
    assert code_of(lambda: put(0, bytes(1000))) == "part_out_of_order"
    assert code_of(lambda: put(2000, bytes(data[2000:]))) == "part_out_of_order"
    assert code_of(lambda: put(500, bytes(data[500:2000]))) == "part_out_of_order"
    assert code_of(lambda: put(1000, bytes(data[1000:]) + b"more")) == "part_out_of_order"
    assert register(party, sealed).received[blob.id] == 1000
    assert put(1000, bytes(data[1000:])).received[blob.id] == size
    assert push(party, sealed).complete


def test_pushing_again_changes_wraps_never_the_manifest(party: Connection, sealed: Sealed) -> None:
    """The same manifest is taken again; another one of the same asset and version is not, nor an older version."""
    push(party, sealed)
    assert register(party, sealed).complete
    owner = party._signer
    for version in (1, 2):
        other = seal(
            sealed.folder.parent / f"v{version}", owner, "scans", "dataset", {"b": b"x"},
            asset_id=sealed.manifest.asset_id, version=version,
        )  # fmt: skip
        assert code_of(lambda other=other: register(party, other)) == ("asset_conflict" if version == 1 else "")
    old = seal(sealed.folder.parent / "old", owner, "scans", "dataset", {"c": b"x"}, asset_id=sealed.manifest.asset_id)
    assert code_of(lambda: register(party, old)) == "asset_conflict"


def test_copied_wrap_is_worth_nothing(world: World, party: Connection, sealed: Sealed, tmp_path: Path) -> None:
    """S4: a wrap of one owner's asset under another owner's manifest does not open."""
    thief = SigningKey.generate()
    other = seal(tmp_path / "other", thief, "scans", "dataset", {"a": b"mine"})
    stolen = wrap_key(sealed.key, sealed.manifest, HpkePublicKey(party.pin.intake))
    keys = WrappedKeys(other.digest, (stolen,)).as_json()
    assert code_of(lambda: register(world.party(thief), other, keys=keys)) == "unseal_failed"


def test_wrap_for_somebody_else(party: Connection, sealed: Sealed) -> None:
    """Without a wrap for this manager's intake key the asset is of no use here."""
    wrap = wrap_key(sealed.key, sealed.manifest, HpkePrivateKey.generate().public)
    keys = WrappedKeys(sealed.digest, (wrap,)).as_json()
    assert code_of(lambda: register(party, sealed, keys=keys)) == "wrap_missing"


def test_only_the_owner_pushes(world: World, party: Connection, sealed: Sealed) -> None:
    """A manifest is taken from the key that signed it alone; blobs too."""
    stranger = world.party()
    assert code_of(lambda: register(stranger, sealed)) == "bad_signature"
    register(party, sealed)
    blob = sealed.manifest.all_blobs[0].id
    path = f"/v1/assets/{sealed.digest}/blobs/{blob}?offset=0"
    assert code_of(lambda: stranger.raw("PUT", path, b"x")) == "not_entitled"
    assert code_of(lambda: stranger.raw("GET", path + "&length=1")) == "not_entitled"


def test_asset_larger_than_the_disk(party: Connection, sealed: Sealed, owner: SigningKey) -> None:
    """S9: what cannot fit is refused before a byte of it comes."""
    manifest = sealed.manifest
    huge = replace(manifest, blobs=(replace(manifest.blobs[0], size=2**49),), size=2**49, chunk_size=1 << 22)
    envelope = signed("Manifest", huge.as_json(), owner)
    wrap = wrap_key(new_data_key(), huge, HpkePublicKey(party.pin.intake))
    keys = WrappedKeys(envelope.digest, (wrap,)).as_json()
    assert code_of(lambda: register(party, sealed, manifest=envelope, keys=keys)) == "disk_full"


def test_document_by_another_signer(party: Connection, world: World) -> None:
    """A baseline is taken from its signer, in its form only."""
    body = {"pcrs": {}, "files": {"/bin/x": ["sha256:" + "0" * 64]}}
    good = PushDocument(document=signed("Baseline", body, party._signer))
    assert party.call("POST", "/v1/documents", DocumentView, good).kind == "Baseline"
    stranger = world.party()
    assert code_of(lambda: stranger.call("POST", "/v1/documents", DocumentView, good)) == "bad_signature"
    bad = PushDocument(document=signed("Baseline", {"pcrs": {}}, party._signer))
    assert code_of(lambda: party.call("POST", "/v1/documents", DocumentView, bad)) == "malformed"


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    own = World(tmp_path_factory.mktemp("own"))
    yield Road(own, tmp_path_factory.mktemp("road"))
    own.close()


def test_swapped_keys_in_the_database(road: Road) -> None:
    """S4, S8: data keys swapped between two rows do not open, and nothing is released."""
    run = road.submit().run
    database = sqlite3.connect(road.world.folder / "manager.sqlite")
    rows = dict(database.execute("SELECT digest, kept FROM assets").fetchall())
    one, two = list(rows)
    try:
        database.execute("UPDATE assets SET kept = ? WHERE digest = ?", (rows[two], one))
        database.execute("UPDATE assets SET kept = ? WHERE digest = ?", (rows[one], two))
        database.commit()
        assert code_of(lambda: road.release(run)) == "custody_broken"
    finally:
        for digest, kept in rows.items():
            database.execute("UPDATE assets SET kept = ? WHERE digest = ?", (kept, digest))
        database.commit()
        database.close()


def test_output_that_was_not_declared(road: Road, tmp_path: Path) -> None:
    """Another name, another id, too large, not signed by the session, or not whole at the end: nothing is registered."""
    from perunml.api.runs import RegisterOutput

    run, session, delivery = road.started()
    grant = delivery.outputs["model"]

    def registered(name: str, **options: Any) -> str:
        files = {"model.pt2": options.pop("content", b"x")}
        signer = options.pop("signer", session.signer)
        made = seal(tmp_path / os.urandom(4).hex(), signer, "model", "output", files, data_key=grant.key, **options)
        return code_of(lambda: session.link.register_output(run, RegisterOutput(name=name, manifest=made.envelope)))

    assert registered("other", asset_id=grant.asset_id) == "output_not_agreed"
    assert registered("model", asset_id="0" * 32) == "output_not_agreed"
    assert registered("model", asset_id=grant.asset_id, content=bytes(2 << 20)) == "output_not_agreed"
    assert registered("model", asset_id=grant.asset_id, signer=SigningKey.generate()) == "bad_signature"
    made = seal(
        tmp_path / "ok", session.signer, "model", "output", {"model.pt2": b"x"}, data_key=grant.key,
        asset_id=grant.asset_id,
    )  # fmt: skip
    session.link.register_output(run, RegisterOutput(name="model", manifest=made.envelope))
    assert code_of(lambda: session.finish({"model": made.digest})) == "output_incomplete"
    assert road.run(run).state == "running"
    upload(made, lambda blob, offset, part: session.link.write_blob(made.digest, blob, offset, part))
    assert code_of(lambda: session.finish({})) == "output_incomplete"
    session.finish({"model": made.digest})
    assert road.run(run).outputs[0].asset == made.digest


def test_a_next_version_sends_only_what_it_does_not_share(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file of four changed: its blob and the index are sent. What is shared has two names, and neither version can write the other's."""
    monkeypatch.setattr(journals, "SETTLED", 0)
    monkeypatch.setattr(writer, "SHARED_BLOB", 100_000)
    home, plain = Home(tmp_path / "home"), tmp_path / "plain"
    identity = Identity.create(home, "nova", b"a passphrase of its own")
    party = world.party(identity.signing)
    plain.mkdir()
    for number in range(4):
        (plain / str(number)).write_bytes(os.urandom(90_000))

    def pushed() -> tuple[assets.SealedAsset, set[str]]:
        sealed = assets.seal(home, identity, plain, name="scans", kind="dataset", chunk_size=65536)
        sent: set[str] = set()
        real = party.raw

        def noted(method: str, path: str, *args: Any, **kwargs: Any) -> bytes:
            if method == "PUT":
                sent.add(path.split("/")[5].partition("?")[0])
            return real(method, path, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(party, "raw", noted)
            assert assets.push(party, home, identity, "scans").complete
        return sealed, sent

    first, sent = pushed()
    assert sent == {blob.id for blob in first.manifest.all_blobs}
    (plain / "2").write_bytes(os.urandom(90_000))
    second, sent = pushed()
    shared = {blob.id for blob in first.manifest.blobs} & {blob.id for blob in second.manifest.blobs}
    assert len(shared) == 3
    assert sent == {blob.id for blob in second.manifest.all_blobs} - shared
    with FolderStore(second.folder) as store:
        for blob in second.manifest.all_blobs:
            size = second.manifest.sealed_size(blob)
            data = bytearray(size)
            store.read(blob.id, 0, memoryview(data))
            assert party.raw("GET", f"/v1/assets/{second.asset}/blobs/{blob.id}?offset=0&length={size}") == data
    blob = next(iter(shared))
    other = party.raw("GET", f"/v1/assets/{first.asset}/blobs/{blob}?offset=0&length=100")
    assert code_of(lambda: party.raw("PUT", f"/v1/assets/{second.asset}/blobs/{blob}?offset=0", bytes(100))) == (
        "part_out_of_order"
    )
    assert party.raw("GET", f"/v1/assets/{first.asset}/blobs/{blob}?offset=0&length=100") == other


def test_another_owner_shares_nothing_by_naming_blobs(world: World, tmp_path: Path) -> None:
    """Blobs of the same ids in another owner's asset, under another asset id, are its own to send."""
    mine, thief = SigningKey.generate(), SigningKey.generate()
    sealed = seal(tmp_path / "mine", mine, "scans", "dataset", {"a": os.urandom(100_000)}, chunk_size=65536)
    assert push(world.party(mine), sealed).complete
    body = {**sealed.manifest.as_json(), "owner": thief.public.text, "asset_id": "ab" * 16}
    envelope = signed("Manifest", body, thief)
    stolen = replace(sealed, envelope=envelope, manifest=open_manifest(envelope, [thief.public]))
    view = register(world.party(thief), stolen)
    assert (view.complete, set(view.received.values())) == (False, {0})
