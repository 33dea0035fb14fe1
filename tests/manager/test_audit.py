"""Exports of a real manager's ledger: they verify offline, and whatever is altered in one is named."""

from __future__ import annotations

import dataclasses
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manager.road import PARTIES, Road
from manager.test_conditions import put
from manager.world import World, cached_keys, code_of
from perunml.agreements.document import agreement_from_json
from perunml.api.agreements import AgreementList
from perunml.client.audit_export import COSIGNATURES, DOCUMENTS, ENTRIES, export
from perunml.client.audit_verify import AuditReport, verify_export
from perunml.client.home import Home
from perunml.ledger.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from perunml.ledger.entries import Entry, entry_data, entry_hash, leaf_of
from perunml.ledger.tiles import bundle, parse_bundle, tile
from perunml.ledger.whole import Whole, bundle_paths, tile_paths
from perunml.wire.canonical import canonical
from perunml.wire.dsse import Envelope, signed
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import PerunError
from perunml.wire.identity import SigningKey


def exported(road: Road, by: str, folder: Path) -> Path:
    connection = road.party[by]
    home = Home(folder / by)
    home.folder.mkdir(parents=True, exist_ok=True)
    names = [view.digest for view in connection.call("GET", "/v1/agreements", AgreementList).agreements]
    target = folder / f"{by}-{time.monotonic_ns()}.zip"
    export(connection, home, names, target)
    return target


@dataclasses.dataclass
class Altered:
    """An export taken apart, to be put together again under another checkpoint by whoever holds the manager's key."""

    key: SigningKey
    entries: list[dict[str, Any]]
    documents: list[dict[str, Any]]
    leaves: list[bytes]

    @classmethod
    def of(cls, source: Path, key: SigningKey) -> Altered:
        with zipfile.ZipFile(source) as archive:
            size = open_checkpoint(archive.read("checkpoint").decode(), key.public).size
            leaves = [leaf for path in bundle_paths(size) for leaf in parse_bundle(archive.read(str(path)), path.width)]
            lines = [[json.loads(line) for line in archive.read(name).splitlines()] for name in (ENTRIES, DOCUMENTS)]
        return cls(key, lines[0], lines[1], leaves)

    def write(self, target: Path) -> Path:
        """All chains linked anew, all leaves, the tree and its checkpoint made anew: as a manager would that lies."""
        heads: dict[str, str] = {}
        for item in self.entries:
            entry = item["entry"]
            entry["previous"] = heads.get(entry["agreement"], "")
            leaf = leaf_of(entry_data(Entry.from_json(entry)), unb64(item["salt"]))
            self.leaves[item["index"]] = leaf
            heads[entry["agreement"]] = entry_hash(leaf)
        self._receipts()
        whole = Whole(self.leaves)
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("checkpoint", sign_checkpoint(whole.size, whole.tree.root(), self.key))
            for path in bundle_paths(whole.size):
                archive.writestr(str(path), bundle(self.leaves[path.index * 256 : path.index * 256 + path.width]))
            for path in tile_paths(whole.size):
                archive.writestr(str(path), tile(whole, path, whole.size))
            for name, lines in ((ENTRIES, self.entries), (DOCUMENTS, self.documents), (COSIGNATURES, [])):
                archive.writestr(name, b"".join(canonical(line) + b"\n" for line in lines))
        return target

    def _receipts(self) -> None:
        """They name their entries by hash, so the liar signs them anew."""
        hashes = {
            item["entry"]["subject"]: item["index"] for item in self.entries if item["entry"]["type"] == "finished"
        }
        for place, line in enumerate(self.documents):
            envelope = Envelope.from_json(line)
            if envelope.payload_type.endswith("receipt+json"):
                body = envelope.unverified("Receipt")
                index = hashes.get(body["run"], 0)
                entry = {"index": index, "hash": entry_hash(self.leaves[index])}
                made = {name: value for name, value in body.items() if name not in ("apiVersion", "kind")}
                self.documents[place] = signed("Receipt", {**made, "entry": entry}, self.key).as_json()

    def first(self, type_: str) -> dict[str, Any]:
        return next(item for item in self.entries if item["entry"]["type"] == type_)

    def insert_after(self, item: dict[str, Any], **changes: Any) -> None:
        """One more entry like this one, at the ledger's end."""
        entry = {**json.loads(json.dumps(item["entry"])), **changes}
        entry["time"] = max(found["entry"]["time"] for found in self.entries)
        self.entries.append({"index": len(self.leaves), "salt": b64(bytes(32)), "entry": entry})
        self.leaves.append(b"")


@pytest.fixture(scope="module")
def road(world: World, tmp_path_factory: pytest.TempPathFactory) -> Road:
    """With a version, a suspension, conditions, an output that was approved and one run more than nothing."""
    road = Road(
        world, tmp_path_factory.mktemp("road"), limits={"runs": 3, "resumes": 1}, held={"approve": ["hospital"]}
    )
    run, sealed, _ = road.trained()
    road.approve_output(run, sealed.digest, "hospital")
    road.delivery(sealed.digest)
    road.suspend("scans", "hospital")
    assert code_of(road.submit) == "asset_suspended"
    road.suspend("scans", "hospital", lift=True)
    put(road, "scans", "hospital", "june", {"until": "2098-01-01T00:00:00Z", "runs": 2})
    _, session, _ = road.started()
    session.renew()
    second = road.document()
    second["metadata"] |= {"version": 2, "predecessor": road.agreement.digest}
    second["jobs"]["train"]["limits"]["runs"] = 2
    road.agreement = agreement_from_json(second)
    road.propose(road.agreement)
    assert road.approve(road.agreement, "hospital").state == "in_force"
    return road


@pytest.fixture(scope="module")
def manager(road: Road) -> SigningKey:
    return cached_keys(road.world.folder).identity


@pytest.fixture(scope="module")
def files(road: Road, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    return {by: exported(road, by, folder) for by in PARTIES}


def verified(source: Path, key: SigningKey, **options: Any) -> AuditReport:
    return verify_export(source, key.public, **options)


@pytest.mark.parametrize("by", PARTIES)
def test_what_happened_is_found_right_by_every_party(files: dict[str, Path], manager: SigningKey, by: str) -> None:
    """All of it, and what a party cannot know is said; unpacked it is the same."""
    report = verified(files[by], manager)
    assert report.counts == {"entries": sum(report.agreements.values())} | {
        "runs": 2, "releases": 2, "renewals": 1, "receipts": 1, "outputs": 1, "cosigned": 0
    }  # fmt: skip
    assert len(report.agreements) == 2
    assert any("conditions" in words for words in report.unchecked) == (by != "hospital")


def test_a_folder_is_as_good_as_a_file(files: dict[str, Path], manager: SigningKey, tmp_path: Path) -> None:
    """Unpacked, as a static tile server would hold it."""
    with zipfile.ZipFile(files["clinic"]) as archive:
        archive.extractall(tmp_path)
    assert verified(tmp_path, manager) == verified(files["clinic"], manager)
    (tmp_path / "tile" / "0").rename(tmp_path / "gone")
    assert refusal(lambda: verified(tmp_path, manager)).code == "bad_tile"


def test_it_contains_what_was_seen_before(files: dict[str, Path], manager: SigningKey) -> None:
    """The checkpoint kept at home: of this ledger, or it tells a rollback or two histories."""
    whole = Whole(Altered.of(files["clinic"], manager).leaves)
    origin = open_checkpoint(zipfile.ZipFile(files["clinic"]).read("checkpoint").decode(), manager.public).origin
    for size in (1, 7, whole.size):
        verified(files["clinic"], manager, seen=Checkpoint(origin, size, whole.tree.root(size)))
    other = Checkpoint(origin, 7, bytes(32))
    assert refusal(lambda: verified(files["clinic"], manager, seen=other)).code == "split_view"
    longer = Checkpoint(origin, whole.size + 1, bytes(32))
    assert refusal(lambda: verified(files["clinic"], manager, seen=longer)).code == "ledger_rollback"
    stranger = SigningKey.generate()
    assert refusal(lambda: verified(files["clinic"], stranger)).code in ("bad_checkpoint", "bad_signature")


def refusal(do: Callable[[], object]) -> PerunError:
    with pytest.raises(PerunError) as caught:
        do()
    return caught.value


def altered(files: dict[str, Path], key: SigningKey, by: str = "hospital") -> Altered:
    return Altered.of(files[by], key)


def test_put_together_again_it_verifies(files: dict[str, Path], manager: SigningKey, tmp_path: Path) -> None:
    """So that what follows is refused for what was altered, and for nothing else."""
    made = altered(files, manager).write(tmp_path / "same.zip")
    assert verified(made, manager).counts == verified(files["hospital"], manager).counts


def drop_document(ending: str) -> Callable[[Altered], None]:
    def change(made: Altered) -> None:
        place = next(i for i, line in enumerate(made.documents) if line["payloadType"].endswith(f"{ending}+json"))
        del made.documents[place]

    return change


def no_approval(made: Altered) -> None:
    """In force with one approval fewer."""
    place = next(i for i, item in enumerate(made.entries) if item["entry"]["type"] == "approval")
    renumber(made, place)


def renumber(made: Altered, place: int) -> None:
    """Leave an entry out, and nobody sees a gap."""
    gone = made.entries.pop(place)
    del made.leaves[gone["index"]]
    for item in made.entries[place:]:
        item["index"] -= 1


def third_run(made: Altered) -> None:
    """One more release than agreed, each with its request."""
    key = made.entries[-1]["entry"]["agreement"]
    run = made.first("run")
    made.insert_after(run, agreement=key)


def released_again(made: Altered) -> None:
    """A finished run's keys once more."""
    made.insert_after(made.first("release"))


def other_asset(made: Altered) -> None:
    made.first("release")["entry"]["body"]["assets"]["scans"] = "sha256:" + "0" * 64


def more_assets(made: Altered) -> None:
    made.first("release")["entry"]["body"]["assets"]["more"] = "sha256:" + "0" * 64


def other_machine(made: Altered) -> None:
    made.first("release")["entry"]["body"]["machine"] = "ek:sha256:" + "0" * 64


def other_profile(made: Altered) -> None:
    made.first("release")["entry"]["body"]["verdict"]["profile"] = "tee"


def no_suspension_lifted(made: Altered) -> None:
    """Suspended, and then a run all the same."""
    lifts = [i for i, item in enumerate(made.entries) if item["entry"]["body"].get("action") == "lift"]
    renumber(made, lifts[0])


def other_signer(made: Altered) -> None:
    made.first("approval")["entry"]["body"]["keys"] = [SigningKey.generate().public.text]


def other_recipient(made: Altered) -> None:
    made.first("output-release")["entry"]["body"]["party"] = "clinic"


def unapproved_output(made: Altered) -> None:
    place = next(i for i, item in enumerate(made.entries) if item["entry"]["type"] == "output-approval")
    renumber(made, place)


def other_outputs(made: Altered) -> None:
    made.first("finished")["entry"]["body"]["outputs"]["model"] = "sha256:" + "1" * 64


def undeclared_output(made: Altered) -> None:
    made.first("finished")["entry"]["body"]["outputs"]["more"] = "sha256:" + "1" * 64


def renewed_after_the_end(made: Altered) -> None:
    first, last = made.first("release")["entry"], made.first("renewal")
    body = {**last["entry"]["body"], "lease": first["body"]["lease"]}
    made.insert_after(last, subject=first["subject"], body=body)


def earlier(made: Altered) -> None:
    made.entries[-1]["entry"]["time"] = "2001-01-01T00:00:00Z"


def in_force_without_anybody(made: Altered) -> None:
    place = next(
        i for i, item in enumerate(made.entries)
        if item["entry"]["type"] == "approval" and item["entry"]["agreement"] == made.entries[-1]["entry"]["agreement"]
    )  # fmt: skip
    renumber(made, place)


ALTERED: dict[str, tuple[Callable[[Altered], None], str]] = {
    "an agreement is missing": (drop_document("agreement"), "agreement"),
    "an approval is missing": (drop_document("approval"), "approval"),
    "a request is missing": (drop_document("runrequest"), "run"),
    "a suspension is missing": (drop_document("suspension"), "suspension"),
    "a receipt is missing": (drop_document("receipt"), "finished"),
    "one approval fewer": (no_approval, "in-force"),
    "a run of a request for another version": (third_run, "run"),
    "a finished run once more": (released_again, "release"),
    "another asset": (other_asset, "release"),
    "one asset more": (more_assets, "release"),
    "another machine": (other_machine, "release"),
    "another profile": (other_profile, "release"),
    "suspended": (no_suspension_lifted, "run"),
    "another signer": (other_signer, "approval"),
    "another recipient": (other_recipient, "output-release"),
    "an output nobody approved": (unapproved_output, "output-release"),
    "another output than the receipt's": (other_outputs, "finished"),
    "an output that is not declared": (undeclared_output, "finished"),
    "a lease after its end": (renewed_after_the_end, "renewal"),
    "time runs backwards": (earlier, "superseded"),
    "a version in force without anybody": (in_force_without_anybody, "in-force"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_the_first_inconsistency_is_named(
    files: dict[str, Path], manager: SigningKey, tmp_path: Path, name: str
) -> None:
    """By a manager that signs whatever it likes: tree, chains and receipts are all in order, the history is not."""
    change, where = ALTERED[name]
    made = altered(files, manager)
    change(made)
    found = refusal(lambda: verified(made.write(tmp_path / "altered.zip"), manager))
    assert found.code == "history_inconsistent"
    assert f", {where} of " in found.reasons[0].message


def test_a_limit_is_counted_over_all_versions(files: dict[str, Path], manager: SigningKey, tmp_path: Path) -> None:
    """Two runs were agreed and two were released: a third is one too many, whatever else is in order."""
    made = altered(files, manager)
    document = next(line for line in made.documents if line["payloadType"].endswith("runrequest+json"))
    assert Envelope.from_json(document).digest in str(made.entries)
    last = made.entries[-1]["entry"]
    version = next(item for item in made.entries if item["entry"]["body"].get("version") == 2)["entry"]["subject"]
    made.insert_after(made.first("release"), agreement=version, subject="0" * 32)
    found = refusal(lambda: verified(made.write(tmp_path / "altered.zip"), manager))
    assert "was not asked for under this agreement" in found.reasons[0].message
    assert last["type"] == "superseded"


@pytest.mark.parametrize("name", ["checkpoint", "tile/0/000.p", "tile/entries/000.p", ENTRIES, DOCUMENTS])
def test_every_byte_counts(files: dict[str, Path], manager: SigningKey, tmp_path: Path, name: str) -> None:
    """A flipped bit in any file, in the middle and at its ends; a file cut short; a file that is not there."""
    with zipfile.ZipFile(files["hospital"]) as archive:
        content = {found: archive.read(found) for found in archive.namelist()}
    (wanted,) = [found for found in content if found.startswith(name)]
    data = content[wanted]
    for at in (0, len(data) // 2, len(data) - 2):
        flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert refusal(lambda flipped=flipped: verified(packed(tmp_path, {**content, wanted: flipped}), manager)).code
    assert refusal(lambda: verified(packed(tmp_path, {**content, wanted: data[:-9]}), manager)).code
    left = {found: value for found, value in content.items() if found != wanted}
    assert refusal(lambda: verified(packed(tmp_path, left), manager)).code == "bad_tile"


def packed(folder: Path, content: dict[str, bytes]) -> Path:
    target = folder / "packed.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return target


def test_what_is_no_export_is_said(manager: SigningKey, tmp_path: Path) -> None:
    """Some other file, an empty zip."""
    (tmp_path / "a").write_bytes(b"no zip")
    assert refusal(lambda: verified(tmp_path / "a", manager)).code == "wrong_document"
    assert refusal(lambda: verified(packed(tmp_path, {}), manager)).code == "bad_tile"


@pytest.fixture
def own(own_world: World, tmp_path: Path) -> Road:
    return Road(own_world, tmp_path / "own")


def test_strangers_and_partners_get_no_more_than_theirs(own: Road) -> None:
    """No documents of an agreement that does not name the caller; of conditions no partner's."""
    put(own, "scans", "hospital", "secret", {"until": "2077-01-01T00:00:00Z"})
    where = f"/v1/ledger/entries?agreement={own.agreement.digest}&documents=1"
    for by in PARTIES[1:]:
        text = own.party[by].raw("GET", where).decode()
        assert "condition+json" not in text
        assert "approval+json" in text
    assert "condition+json" in own.party["hospital"].raw("GET", where).decode()
    stranger = own.world.party(SigningKey.generate())
    for path in (where, f"/v1/ledger/cosignatures?agreement={own.agreement.digest}"):
        assert code_of(lambda path=path: stranger.raw("GET", path)) == "not_entitled"
