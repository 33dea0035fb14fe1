"""Managers that lie in their own ledger, and exports with things left off: what signatures and chains alone do not show."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from manager.road import Road
from manager.test_audit import Altered, exported, refusal, renumber
from manager.test_conditions import put
from manager.test_versions import line
from manager.test_witnesses import Watched
from manager.world import World, cached_keys, code_of
from perunml.client.audit import Known
from perunml.client.audit_export import COSIGNATURES
from perunml.client.audit_verify import verify_export
from perunml.ledger.checkpoint import open_checkpoint
from perunml.ledger.entries import entry_hash
from perunml.ledger.notes import parse_note
from perunml.ledger.receipts import Receipt, open_receipt, sign_receipt
from perunml.ledger.witnessing import open_cosigned, sign_as_witness
from perunml.wire.canonical import canonical
from perunml.wire.dsse import Envelope
from perunml.wire.identity import SigningKey
from perunml.wire.timestamps import format_time, parse_time

ELSEWHERE = "ek:sha256:" + "0" * 64


@pytest.fixture(scope="module")
def road(world: World, tmp_path_factory: pytest.TempPathFactory) -> Road:
    """Two runs, one finished, under conditions that were put, dropped and put again; a suspension of each asset, lifted."""
    road = Road(world, tmp_path_factory.mktemp("road"), limits={"runs": 5, "resumes": 1})
    put(road, "scans", "hospital", "here", {"machines": [road.trainer.machine], "profiles": ["simulated"]})
    road.trained()
    _, session, _ = road.started()
    session.renew()
    road.suspend("scans", "hospital")
    road.suspend("scans", "hospital", lift=True)
    road.suspend("unet", "startup")
    road.suspend("unet", "startup", lift=True)
    put(road, "scans", "hospital", "here", None)
    return road


@pytest.fixture(scope="module")
def manager(road: Road) -> SigningKey:
    key: SigningKey = cached_keys(road.world.folder).identity
    return key


@pytest.fixture(scope="module")
def file(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(road, "hospital", tmp_path_factory.mktemp("exports"))


def of_type(made: Altered, type_: str) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((i, item["entry"]) for i, item in enumerate(made.entries) if item["entry"]["type"] == type_)


def other_subject(made: Altered) -> None:
    """The hospital's word on its scans is entered as one on the startup's code: who looks for the scans finds nothing."""
    digests = list(dict.fromkeys(entry["subject"] for _, entry in of_type(made, "suspension")))
    next(of_type(made, "suspension"))[1]["subject"] = digests[1]


def other_condition(made: Altered) -> None:
    """A condition on the scans entered as one on something else."""
    next(of_type(made, "condition"))[1]["subject"] = "sha256:" + "0" * 64


def machine_not_allowed(made: Altered) -> None:
    """Neither the agreement nor the condition names it."""
    _, entry = next(of_type(made, "release"))
    entry["body"]["machine"] = ELSEWHERE


def lease_of_another_run(made: Altered) -> None:
    """A renewal of a lease that another run holds."""
    _, first = next(of_type(made, "release"))
    next(of_type(made, "renewal"))[1]["body"]["lease"] = first["body"]["lease"]


def two_leases(made: Altered) -> None:
    """Keys to a second machine while the first one has them."""
    *_, (place, entry) = of_type(made, "release")
    made.insert_after(made.entries[place], body={**entry["body"], "lease": "f" * 32})


def request_twice(made: Altered) -> None:
    """One signed request, two runs: its id is what it names."""
    place, _ = next(of_type(made, "run"))
    made.insert_after(made.entries[place], subject="e" * 32)


def run_by_another(made: Altered) -> None:
    """A request of the startup's, entered as the clinic's."""
    next(of_type(made, "run"))[1]["body"]["party"] = "clinic"


def withheld_after_use(made: Altered) -> None:
    """Called withheld, so that it does not count, though its host renewed."""
    *_, (place, entry) = of_type(made, "release")
    body = {
        "run": entry["subject"],
        "machine": entry["body"]["machine"],
        "state": "lost",
        "reasons": [],
        "withheld": True,
    }
    made.insert_after(made.entries[place], type="lease-end", subject=entry["body"]["lease"], body=body)


def renewed_too_late(made: Altered) -> None:
    """Ten minutes without a renewal, of a lease of half a minute; and then it goes on."""
    place, _ = next(of_type(made, "renewal"))
    for item in made.entries[place:]:
        item["entry"]["time"] = format_time(parse_time(item["entry"]["time"]) + 600)


def epoch_with_a_lease(made: Altered) -> None:
    """A restored manager that goes on with a lease of the one before it."""
    agreement = made.entries[-1]["entry"]["agreement"]
    made.insert_after(made.entries[-1], type="epoch", subject=agreement, body={"epoch": 2, "restored": 1})


def end_of_another_agreements(made: Altered) -> None:
    """The end of a lease, entered where its run is not known."""
    body = {"run": "d" * 32, "machine": ELSEWHERE, "state": "lost", "reasons": []}
    made.insert_after(made.entries[-1], type="lease-end", subject="c" * 32, body=body)


def swapped(made: Altered) -> None:
    """The keys before the request."""
    (asked, _), (out, _) = next(of_type(made, "run")), next(of_type(made, "release"))
    made.entries[asked]["entry"], made.entries[out]["entry"] = made.entries[out]["entry"], made.entries[asked]["entry"]
    made.entries[asked]["entry"]["time"] = made.entries[out]["entry"]["time"]


ALTERED: dict[str, tuple[Callable[[Altered], None], str]] = {
    "a suspension of another asset": (other_subject, "suspension"),
    "a condition on another asset": (other_condition, "condition"),
    "a machine that is not named": (machine_not_allowed, "release"),
    "another run's lease": (lease_of_another_run, "renewal"),
    "two leases at once": (two_leases, "release"),
    "one request for two runs": (request_twice, "run"),
    "another party's request": (run_by_another, "run"),
    "withheld after use": (withheld_after_use, "lease-end"),
    "a renewal long after its lease": (renewed_too_late, "renewal"),
    "an epoch that keeps a lease": (epoch_with_a_lease, "epoch"),
    "an end of no run": (end_of_another_agreements, "lease-end"),
    "keys before the request": (swapped, "release"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_s13_the_first_lie_is_named(file: Path, manager: SigningKey, tmp_path: Path, name: str) -> None:
    """Tree, leaves, chains and receipts are made anew by the liar, so only the replay can tell."""
    change, where = ALTERED[name]
    made = Altered.of(file, manager)
    change(made)
    found = refusal(lambda: verify_export(made.write(tmp_path / "altered.zip"), manager.public))
    assert found.code == "history_inconsistent"
    assert f", {where} of " in found.reasons[0].message


def test_conditions_on_hosts_are_held_against_every_release_and_renewal(own_world: World, tmp_path: Path) -> None:
    """The agreement names two machines, the owner's condition one of them."""
    both = Both(own_world, tmp_path / "road")
    run, session, _ = both.started()
    session.renew()
    put(both, "scans", "hospital", "not-here", {"machines": [ELSEWHERE]})
    put(both, "scans", "hospital", "not-here", None)
    key = cached_keys(own_world.folder).identity
    made = Altered.of(exported(both, "hospital", tmp_path), key)
    added, dropped = (made.entries[place] for place, _ in of_type(made, "condition"))
    released, renewed = (next(of_type(made, kind))[0] for kind in ("release", "renewal"))
    assert verify_export(made.write(tmp_path / "same.zip"), key.public).counts["runs"] == 1
    for place, where in ((released, "release"), (renewed, "renewal")):
        made = Altered.of(exported(both, "hospital", tmp_path), key)
        moved = made.entries.pop(made.entries.index(added))
        assert dropped in made.entries
        made.entries.insert(place, moved)
        renumbered(made)
        found = refusal(lambda made=made: verify_export(made.write(tmp_path / "moved.zip"), key.public))
        assert found.code == "history_inconsistent"
        assert f", {where} of {run}: the condition not-here" in found.reasons[0].message


def test_an_output_of_another_agreement_is_not_the_one_agreed(own_world: World, tmp_path: Path) -> None:
    """Two agreements of the same parties, jobs of the same names: the model of one is served, or handed out, under the other."""
    first = Road(own_world, tmp_path / "road")
    _, theirs, _ = first.trained()
    own = line(first, "second")
    _, ours, _ = own.trained(b"ours")
    own.delivery(ours.digest)
    own.release(own.submit("serve", "clinic").run, own.server)
    key = cached_keys(own_world.folder).identity
    file = exported(own, "hospital", tmp_path)
    assert verify_export(file, key.public).counts["releases"] == 3
    made = Altered.of(file, key)
    *_, (_, served) = of_type(made, "release")
    served["body"]["assets"]["model"] = theirs.digest
    found = refusal(lambda: verify_export(made.write(tmp_path / "served.zip"), key.public))
    assert "is no output of a finished run" in found.reasons[0].message
    made = Altered.of(file, key)
    _, handed = next(of_type(made, "output-release"))
    handed["subject"] = theirs.digest
    found = refusal(lambda: verify_export(made.write(tmp_path / "handed.zip"), key.public))
    assert "no finished run of this agreement" in found.reasons[0].message


class Both(Road):
    def document(self) -> dict[str, Any]:
        made = super().document()
        made["hosts"]["trainer"]["machines"].append(ELSEWHERE)
        return made


def renumbered(made: Altered) -> None:
    """Indices and times in the order in which the entries stand."""
    indices = sorted(item["index"] for item in made.entries)
    times = sorted(item["entry"]["time"] for item in made.entries)
    for item, index, time in zip(made.entries, indices, times, strict=True):
        item["index"], item["entry"]["time"] = index, time


def test_s13_a_chain_cut_at_its_end_is_seen_by_who_saw_more(file: Path, manager: SigningKey, tmp_path: Path) -> None:
    """Fewer opened entries than this home checked before, all else in order: the tree is whole, the chain follows."""
    made = Altered.of(file, manager)
    last = made.entries[-1]
    agreement, leaf = last["entry"]["agreement"], made.leaves[last["index"]]
    known = {agreement: Known(len(made.entries), last["index"], entry_hash(leaf))}
    assert verify_export(file, manager.public, known=known).agreements[agreement] == len(made.entries)
    del made.entries[-1]
    cut = made.write(tmp_path / "cut.zip")
    assert verify_export(cut, manager.public).agreements[agreement] == len(made.entries)
    assert refusal(lambda: verify_export(cut, manager.public, known=known)).code == "broken_chain"
    another = {agreement: Known(1, last["index"], "sha256:" + "0" * 64)}
    assert refusal(lambda: verify_export(file, manager.public, known=another)).code == "broken_chain"


def test_p17_two_receipts_of_one_run_are_seen_by_who_has_the_other(file: Path, manager: SigningKey) -> None:
    """The manager signed for other parameters than it tells now; both receipts name the same entry."""
    found = next(
        open_receipt(Envelope.from_json(line), manager.public)
        for line in Altered.of(file, manager).documents
        if line["payloadType"].endswith("receipt+json")
    )
    verify_export(file, manager.public, receipts=(found,))
    other = dataclasses.replace(found, parameters={"epochs": 5})
    told: Receipt = open_receipt(sign_receipt(other, manager), manager.public)
    assert refusal(lambda: verify_export(file, manager.public, receipts=(told,))).code == "bad_receipt"
    beyond = dataclasses.replace(found, run="a" * 32, entry_index=10**6)
    assert refusal(lambda: verify_export(file, manager.public, receipts=(beyond,))).code == "ledger_rollback"


def test_p17_a_cosignature_must_be_a_witness_that_is_named(own_world: World, tmp_path: Path) -> None:
    """Of this very tree, by a key of the agreement; a stranger's, however right, adds no trust and is refused."""
    road = Watched(own_world, tmp_path / "road")
    key = cached_keys(own_world.folder).identity
    file = exported(road, "hospital", tmp_path)
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    note = content["checkpoint"].decode()
    size = open_checkpoint(note, key.public).size

    def signed_by(signer: SigningKey, text: str = note, size: int = size) -> Path:
        line = open_cosigned(str(sign_as_witness(parse_note(text), signer, 1_800_000_000)), signer.public).line
        told = canonical({"key": signer.public.text, "size": size, "line": line}) + b"\n"
        with zipfile.ZipFile(tmp_path / "cosigned.zip", "w") as archive:
            for name, data in {**content, COSIGNATURES: told}.items():
                archive.writestr(name, data)
        return tmp_path / "cosigned.zip"

    report = verify_export(signed_by(road.watcher), key.public)
    assert [(found.key, found.size) for found in report.witnesses] == [(road.watcher.public.text, size)]
    assert refusal(lambda: verify_export(signed_by(SigningKey.generate()), key.public)).code == "history_inconsistent"
    smaller = refusal(lambda: verify_export(signed_by(road.watcher, size=size - 1), key.public))
    assert smaller.code == "bad_signature"


def test_a_suspension_left_out_before_all_others_is_told(file: Path, manager: SigningKey, tmp_path: Path) -> None:
    """It may have been before this party's agreement, so it is no contradiction; that it was is said."""
    made = Altered.of(file, manager)
    assert verify_export(file, manager.public).unchecked == ()
    renumber(made, next(of_type(made, "suspension"))[0])
    (words,) = verify_export(made.write(tmp_path / "left.zip"), manager.public).unchecked
    assert words.startswith("suspensions of ")


def test_an_epoch_is_told_and_is_never_the_same_again(file: Path, manager: SigningKey, tmp_path: Path) -> None:
    """What a lost manager did after its backup, no ledger tells."""
    made = Altered.of(file, manager)
    *_, (place, entry) = of_type(made, "release")
    body = {"run": entry["subject"], "machine": entry["body"]["machine"], "state": "lost", "reasons": []}
    made.insert_after(made.entries[place], type="lease-end", subject=entry["body"]["lease"], body=body)
    for epoch in (2, 3):
        epoch_with_a_lease(made)
        made.entries[-1]["entry"]["body"]["epoch"] = epoch
    report = verify_export(made.write(tmp_path / "restored.zip"), manager.public)
    assert [words.startswith("what the manager did between its backup") for words in report.unchecked] == [True, True]
    epoch_with_a_lease(made)
    assert (
        refusal(lambda: verify_export(made.write(tmp_path / "twice.zip"), manager.public)).code
        == "history_inconsistent"
    )


NO_TEXT: tuple[Any, ...] = (None, 0, True, [], {}, ["x"], {"x": [1]}, "", "x")


def test_no_body_is_so_odd_that_the_audit_breaks(file: Path, manager: SigningKey, tmp_path: Path) -> None:
    """Each member of each entry's body replaced by anything, or gone: refused by name, or told apart from nothing; never a crash."""
    whole = Altered.of(file, manager)
    tried = refused = 0
    for place, item in enumerate(whole.entries):
        for name in item["entry"]["body"]:
            inside = item["entry"]["body"][name]
            nested = [{**inside, key: [1]} for key in inside] if isinstance(inside, dict) else []
            for value in (*NO_TEXT[tried % 3 :: 3], *nested, ...):
                made = Altered(
                    manager, json.loads(json.dumps(whole.entries)), list(whole.documents), list(whole.leaves)
                )
                body = made.entries[place]["entry"]["body"]
                if value is ...:
                    del body[name]
                else:
                    body[name] = value
                tried += 1
                code = code_of(lambda made=made: verify_export(made.write(tmp_path / "odd.zip"), manager.public))
                assert code in ("", "history_inconsistent")
                refused += bool(code)
    assert tried > 100
    assert refused > tried / 2


def test_a_damaged_zip_is_told_and_never_breaks_the_audit(file: Path, manager: SigningKey, tmp_path: Path) -> None:
    """Bytes flipped all over the file as it is packed: names, sizes, methods, compressed data, the directory at its end; and cut short."""
    data, target = file.read_bytes(), tmp_path / "damaged.zip"
    codes = set()
    for step in range(0, len(data), max(1, len(data) // 120)):
        flipped = bytearray(data)
        flipped[step] ^= 1 << step % 8
        target.write_bytes(flipped)
        codes.add(code_of(lambda: verify_export(target, manager.public)))
        target.write_bytes(data[:step])
        assert code_of(lambda: verify_export(target, manager.public)) == "wrong_document"
    for bits in (0x01, 0x20, 0x40):  # encrypted, patched, strongly encrypted: marked in each place
        marked = bytearray(data)
        for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            found = data.find(mark)
            while found >= 0:
                marked[found + at] |= bits
                found = data.find(mark, found + 1)
        target.write_bytes(marked)
        codes.add(code_of(lambda: verify_export(target, manager.public)))
    assert "wrong_document" in codes
