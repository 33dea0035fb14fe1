"""Backups: what is restored is what was backed up, and is believed only by whom nobody showed more."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.road import Road, push, push_message, seal
from manager.test_witnesses import Majority, Watched, impatient, refusal
from manager.world import PASSPHRASE, PROFILE, World, cached_keys, code_of
from perunml.api.agreements import AgreementList
from perunml.api.assets import AssetView
from perunml.client.audit_verify import verify_export
from perunml.client.connection import Connection
from perunml.client.trust import trust
from perunml.manager.backup import INDEX, backup, restore
from perunml.manager.config import Config
from perunml.manager.setup import rotate_intake, unlock
from perunml.manager.store import facts
from perunml.manager.store.database import Database
from perunml.wire.canonical import canonical, load_json
from perunml.wire.hpke import HpkePublicKey

__all__ = ["impatient"]


@pytest.fixture
def road(own_world: World, tmp_path: Path) -> Road:
    return Road(own_world, tmp_path / "road", limits={"runs": 3})


@pytest.fixture
def watched(own_world: World, tmp_path: Path) -> Majority:
    return Majority(own_world, tmp_path / "road", limits={"runs": 3})


def back(road: Road, source: Path) -> None:
    """The manager is gone, and comes back from a backup."""
    world = road.world
    world.stop()
    shutil.rmtree(world.folder)
    restore(source, world.folder)
    world.start()


def fact(world: World, name: str) -> str:
    database = Database(Config.load(world.folder).database)
    with database.read() as connection:
        found = facts.get(connection, name)
    database.close()
    return found


def test_a_running_manager_is_backed_up_and_comes_back_whole(road: Road, tmp_path: Path) -> None:
    """Assets, agreements, outputs and counts; what ran is over, and the agreement's parties find in the ledger why."""
    _, sealed, _ = road.trained()
    run, session, _ = road.started()
    made = backup(road.world.folder, tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
    assert made.files > 5
    back(road, tmp_path / "copy")
    assert code_of(session.renew) == "lease_ended"
    view = road.run(run)
    assert (view.state, [reason["code"] for reason in view.reasons]) == ("lost", ["manager_restored"])
    assert road.delivery(sealed.digest).output == "model"
    road.started()
    assert code_of(road.submit) == "runs_exhausted"
    told = road.party["clinic"].raw("GET", f"/v1/ledger/entries?agreement={road.agreement.digest}").decode()
    assert '"restored":' in told
    assert (fact(road.world, facts.EPOCH), fact(road.world, facts.RESTORED)) == ("2", "")
    road.world.restart()
    assert fact(road.world, facts.EPOCH) == "2"


def test_s1_an_old_backup_releases_nothing_where_witnesses_saw_more(watched: Majority, tmp_path: Path) -> None:
    """S1: they show it what it lacks; it answers what it knows, and refuses the rest for good, over a restart too."""
    names = watched.quorum["of"]
    with watched.witnessing(*names):
        backup(watched.world.folder, tmp_path / "old")
        watched.trained()
    back(watched, tmp_path / "old")
    for name in names:
        with pytest.raises(Exception, match=r"ledger_rollback|split_view|bad_consistency_proof"):
            watched.witness(name)
    exc = refusal(watched.submit)
    assert exc.code == "rollback_detected"
    assert watched.party["clinic"].call("GET", "/v1/agreements", AgreementList).agreements
    watched.world.restart()
    assert code_of(watched.submit) == "rollback_detected"


def test_the_newest_backup_goes_on_when_its_witnesses_say_so(watched: Majority, tmp_path: Path) -> None:
    """And not before: without them nothing is released."""
    names = watched.quorum["of"]
    with watched.witnessing(*names):
        watched.trained()
    backup(watched.world.folder, tmp_path / "new")
    back(watched, tmp_path / "new")
    run = watched.submit().run
    assert code_of(lambda: watched.release(run)) == "witnesses_unreachable"
    with watched.witnessing(*names):
        watched.release(run)


def test_a_folder_that_is_not_empty_is_left_alone(road: Road, tmp_path: Path) -> None:
    """Neither a manager's nor anybody's; and a backup is not written over another file."""
    backup(road.world.folder, tmp_path / "copy")
    assert code_of(lambda: restore(tmp_path / "copy", road.world.folder)) == "folder_in_use"
    with pytest.raises(FileExistsError):
        backup(road.world.folder, tmp_path / "copy")
    assert code_of(lambda: backup(tmp_path, tmp_path / "other")) == "folder_in_use"


@pytest.fixture(scope="module")
def copy(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backup") / "copy"
    backup(world.folder, path)
    return path


def members(source: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(source) as archive:
        return [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr] # files only


def written(target: Path, found: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(target, "w") as archive:
        for member, data in found:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data))
    return target


def test_s3_whatever_is_altered_is_not_restored(copy: Path, tmp_path: Path) -> None:
    """S3: a byte of each file, a file less, one more, one twice, the index, the end; nothing is left behind."""
    whole = members(copy)
    cases = []
    for place, (member, data) in enumerate(whole):
        if data:
            changed = data[:-1] + bytes([data[-1] ^ 1])
            cases.append([*whole[:place], (member, changed), *whole[place + 1 :]])
        cases.append([*whole[:place], *whole[place + 1 :]])
    cases += [[*whole[:1], *whole], [*whole, whole[0]]]
    for case in cases:
        assert code_of(lambda case=case: restore(written(tmp_path / "bad", case), tmp_path / "new")) in (
            "backup_damaged", "malformed", "non_canonical",
        )  # fmt: skip
    cut = tmp_path / "cut"
    cut.write_bytes(copy.read_bytes()[: copy.stat().st_size // 2])
    assert code_of(lambda: restore(cut, tmp_path / "new")) == "backup_damaged"
    assert not list(tmp_path.glob(".restore-*"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "blobs/../../evil", "roots/a/../../../evil", "lock", "blobs/a\x00b"]
)
def test_a_backup_writes_nowhere_else(copy: Path, tmp_path: Path, name: str) -> None:
    """Names that leave the folder, and files that no manager has, though the index lists them."""
    whole = members(copy)
    index = load_json(whole[-1][1])
    assert isinstance(index, dict)
    index["files"][name] = [4, "9" * 64]  # type: ignore[index] # an object
    case = [*whole[:-1], (tarfile.TarInfo(name), b"evil"), (tarfile.TarInfo(INDEX), canonical(index))]
    assert code_of(lambda: restore(written(tmp_path / "bad", case), tmp_path / "new")) == "backup_damaged"
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_a_backup_holds_no_links(copy: Path, tmp_path: Path) -> None:
    """Neither symbolic nor hard, nor devices."""
    whole = members(copy)
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
        link = tarfile.TarInfo("blobs/a")
        link.type, link.linkname = kind, "/etc/passwd"
        case = [*whole[:-1], (link, b""), whole[-1]]
        assert code_of(lambda case=case: restore(written(tmp_path / "bad", case), tmp_path / "new")) == "backup_damaged"


def test_the_intake_key_is_replaced_and_nothing_sealed_anew(road: Road, tmp_path: Path) -> None:
    """What was brought stays; a key sealed to the old one is refused with the way out; to the new one it is taken. Parties see it in the ledger, twice."""
    world = road.world
    assert code_of(lambda: rotate_intake(world.folder, PASSPHRASE)) == "folder_in_use"
    before = road.world.pin
    world.stop()
    intake, generation = rotate_intake(world.folder, PASSPHRASE)
    assert (generation, intake != before.intake) == (2, True)
    assert unlock(world.folder, PASSPHRASE).intake.public.text == intake
    cached_keys.cache_clear()
    world.start()
    fresh = trust(world.url, PROFILE)
    assert (fresh.intake, fresh.identity) == (intake, before.identity)
    road.trained()
    other = seal(tmp_path / "other", road.keys["hospital"], "other", "dataset", {"b.csv": b"1"})
    exc = refusal(lambda: push(road.party["hospital"], other))
    assert (exc.code, exc.reasons[0].expected) == ("intake_rotated", HpkePublicKey(intake).id)
    with Connection(fresh, road.keys["hospital"]) as connection:
        assert connection.call("POST", "/v1/assets", AssetView, push_message(other, fresh.intake)).name == "other"
    told = road.party["clinic"].raw("GET", f"/v1/ledger/entries?agreement={road.agreement.digest}").decode()
    assert '"intake-rotation"' in told


def test_what_was_restored_verifies(road: Road, tmp_path: Path) -> None:
    """Epoch, ended leases and all: an audit finds nothing that does not follow."""
    from manager.test_audit import exported

    road.started()
    backup(road.world.folder, tmp_path / "copy")
    back(road, tmp_path / "copy")
    road.trained()
    report = verify_export(exported(road, "clinic", tmp_path), cached_keys(road.world.folder).identity.public)
    assert report.counts["releases"] == 2


@pytest.fixture(autouse=True)
def fresh_keys() -> Iterator[None]:
    """Keys are kept by folder; these tests put another manager's state into one."""
    yield
    cached_keys.cache_clear()


def test_watched_is_a_road() -> None:
    """What is witnessed here is the very road of the other tests."""
    assert issubclass(Majority, Watched)
