"""A machine's IMA log at the manager: kept over restarts, judged by what is new of it, and never otherwise than as a whole."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manager.road import Road
from manager.world import World, code_of
from perunml.agreements.document import agreement_from_json
from perunml.api.ledger import EntryList
from perunml.evidence.ima.state import LogState, Noted
from perunml.host.session import Session
from perunml.manager import library, logstates, machines
from perunml.manager.logstates import LogStates

LOG_OF = machines.log_of
PYTHON = ("/usr/bin/python3", b"an interpreter")


@pytest.fixture
def road(world: World, tmp_path: Path) -> Road:
    return Road(world, tmp_path / "road")


@contextmanager
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Machines whose kept log is read whole meanwhile."""
    found: list[str] = []

    def log_of(connection: Any, machine: machines.StoredMachine) -> bytes:
        found.append(machine.id)
        return LOG_OF(connection, machine)

    with monkeypatch.context() as patch:
        patch.setattr(machines, "log_of", log_of)
        yield found


def kept(road: Road) -> machines.StoredMachine:
    assert road.world.server is not None
    with road.world.server.services.database.read() as connection:
        return machines.load(connection, road.trainer.machine)


def kept_log(road: Road) -> bytes:
    assert road.world.server is not None
    with road.world.server.services.database.read() as connection:
        return LOG_OF(connection, machines.load(connection, road.trainer.machine))


def renew_with_new_lines(road: Road, session: Session, lines: int = 3) -> None:
    for _ in range(lines):
        road.tpm.measure(*PYTHON)
    session.renew()
    assert kept_log(road) == road.tpm.ima_log


def test_a_renewal_reads_no_kept_log(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was judged at the release is not read again; every new line is judged and kept."""
    _, session, _ = road.started()
    with reads(monkeypatch) as found:
        for _ in range(3):
            renew_with_new_lines(road, session)
        session.renew()
    assert found == []


def test_sessions_in_turns_read_no_kept_log(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sessions of one machine, each behind the other by what the other's renewal told."""
    _, one, _ = road.started()
    _, two, _ = road.started()
    with reads(monkeypatch) as found:
        for _ in range(3):
            renew_with_new_lines(road, one)
            renew_with_new_lines(road, two)
    assert found == []


def test_i23_the_kept_log_outlives_a_restart(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restarted manager has the log, not its state: the first renewal is judged from the first line, the next by its new
    lines. The host sends new lines all the time."""
    _, session, _ = road.started()
    renew_with_new_lines(road, session)
    road.world.restart()
    with reads(monkeypatch) as found:
        renew_with_new_lines(road, session)
        assert found == [road.trainer.machine]
        renew_with_new_lines(road, session)
        assert found == [road.trainer.machine]


@pytest.mark.parametrize("restarted", [False, True], ids=["state at hand", "after a restart"])
def test_c14_i5_an_unlisted_file_ends_the_lease_and_all_know_it(road: Road, restarted: bool) -> None:
    """C14, I5: path and digest stand in the ledger's entry and in the view of each party."""
    run, session, _ = road.started()
    renew_with_new_lines(road, session)
    if restarted:
        road.world.restart()
    road.tpm.measure("/opt/evil", b"evil")
    assert code_of(session.renew) == "not_in_policy"
    for name in ("hospital", "startup", "cloud"):
        reasons = road.run(run, name).reasons
        assert [reason["code"] for reason in reasons] == ["not_in_policy"]
        assert "/opt/evil" in reasons[0]["message"]
        assert reasons[0]["seen"] == f"sha256:{hashlib.sha256(b'evil').hexdigest()}"
    path = f"/v1/ledger/entries?agreement={road.agreement.digest}"
    entries = [entry.entry for entry in road.party["hospital"].call("GET", path, EntryList).entries]
    told = [entry for entry in entries if entry["type"] == "refusal" and entry["subject"] == run]
    assert [reason["message"] for reason in told[-1]["body"]["reasons"]] == ["/opt/evil was loaded and is not agreed"]
    assert code_of(session.renew) == "lease_ended"
    assert b"/opt/evil" not in kept_log(road)


def test_i23_a_reboot_wants_the_whole_log(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """I23: after a reboot the old session is over for its host; a new one tells the log of the new boot from its first line,
    which then is the kept one."""
    _, session, _ = road.started()
    renew_with_new_lines(road, session)
    before = kept(road)
    road.tpm.reboot()
    road.tpm._accepted = before.log_size
    run = road.submit().run
    assert code_of(lambda: road.release(run)) == "ima_offset"
    road.tpm.forget()
    session, _ = road.release(run)
    assert kept_log(road) == road.tpm.ima_log
    assert kept(road).boot != before.boot
    with reads(monkeypatch) as found:
        renew_with_new_lines(road, session)
    assert found == []


def test_an_increment_that_begins_elsewhere_is_judged_as_a_whole(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that lost the manager's answer tells lines again: the kept log is read and compared."""
    _, session, _ = road.started()
    offset = road.tpm._accepted
    renew_with_new_lines(road, session)
    road.tpm._accepted = offset
    with reads(monkeypatch) as found:
        renew_with_new_lines(road, session)
        assert found == [road.trainer.machine]
        renew_with_new_lines(road, session)
        assert found == [road.trainer.machine]


def test_a_long_baseline_is_read_beside_the_event_loop(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that just started reads a machine's baseline once, in a thread of its own: others' renewals do not wait."""
    _, session, _ = road.started()
    road.world.restart()
    assert road.world.server is not None
    readers: list[str] = []
    real = library.Library._read
    loop = road.world.server._thread.name

    def read(self: library.Library, digest: str, data: Any) -> Any:
        readers.append(threading.current_thread().name)
        return real(self, digest, data)

    monkeypatch.setattr(library.Library, "_read", read)
    monkeypatch.setattr(library, "INLINE", 100)
    renew_with_new_lines(road, session)
    renew_with_new_lines(road, session)
    assert len(readers) == 1
    assert readers[0] != loop


def test_states_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest state goes, the one asked for stays; after a failed transaction none is left."""
    monkeypatch.setattr(logstates, "MAX_STATES", 2)
    state = LogState("sha256:b 1", 100, 2, {}, Noted())
    states = LogStates()
    for machine in ("a", "b"):
        states.put(machine, "tpm:1.0", state)
    assert states.get("a", "tpm:1.0", 100, "sha256:b 1") is state
    states.put("c", "tpm:1.0", state)
    assert states.get("b", "tpm:1.0", 100, "sha256:b 1") is None
    assert states.get("a", "tpm:1.0", 100, "sha256:b 1") is state
    for key in (("a", "tpm:2.0", 100, "sha256:b 1"), ("a", "tpm:1.0", 99, "sha256:b 1"), ("a", "tpm:1.0", 100, "")):
        assert states.get(*key) is None
    states.forget()
    assert states.get("a", "tpm:1.0", 100, "sha256:b 1") is None


def test_only_the_kept_log_has_a_state(road: Road) -> None:
    """I8: lines after the quoted prefix are told, not proven; a session may tell others than were kept. What was found of its
    log is not found of the kept one, nor of a piece that is not where it ought to be, nor of another boot."""
    _, session, _ = road.started()
    first = kept(road).log_size
    renew_with_new_lines(road, session)
    now, log = kept(road), kept_log(road)
    assert road.world.server is not None
    with road.world.server.services.database.read() as connection:
        for start in (0, first, now.log_size):
            assert machines.keeps(connection, now, now.boot, start, log[start:])
            assert machines.keeps(connection, now, now.boot, start, log[start:] + b"more")
        assert machines.keeps(connection, now, "tpm:9.9", 0, log)  # nothing is kept of it
        assert not machines.keeps(connection, now, now.boot, first, log[first:-1] + b"?")
        assert not machines.keeps(connection, now, now.boot, first, log[first:-1])
        assert not machines.keeps(connection, now, now.boot, first + 1, log[first + 1 :])
        assert not machines.keeps(connection, now, "tpm:9.9", first, log[first:])


def test_evidence_of_an_earlier_boot_keeps_nothing(road: Road) -> None:
    """A quote that was made before a boot and is judged after it takes neither clock nor log back."""
    road.started()
    now = kept(road)
    assert road.world.server is not None
    known = machines.read_clock(now.clock)
    assert known is not None
    newer = replace(now, clock=machines.write_clock((known[0] + 1, 0, 5)), boot=f"tpm:{known[0] + 1}.0", log_size=7)
    with road.world.server.services.database.read() as connection:
        made = machines.remember(
            connection, newer, boot=now.boot, clock=known, start=0, log=b"x" * 9, line="l", agreement="a", shared=False
        )
    assert made == newer


def test_a_log_with_a_gap_is_a_bug(road: Road) -> None:
    """What is new goes on from what is kept: nothing between them is missing."""
    road.started()
    now = kept(road)
    assert road.world.server is not None
    with road.world.server.services.database.read() as connection, pytest.raises(ValueError, match="goes on"):
        machines.remember(
            connection,
            now,
            boot=now.boot,
            clock=None,
            start=now.log_size + 1,
            log=b"x",
            line="l",
            agreement="a",
            shared=False,
        )


@pytest.mark.parametrize("step", ["renew", "finish"])
def test_i22_a_log_that_the_manager_lacks_is_sent_whole(road: Road, step: str) -> None:
    """I22: a manager that keeps less than the host thinks (it was restored) refuses the increment; lease and nonce stay as
    they were, and the host proves itself again with the whole log."""
    run, session, _ = road.started()
    road.tpm.measure(*PYTHON)
    road.tpm._accepted = len(road.tpm.ima_log)
    if step == "renew":
        session.renew()
        assert kept_log(road) == road.tpm.ima_log
    else:
        session.finish({}, error="code_failed")
        assert road.run(run).state == "failed"


def test_a_refusal_that_stays_is_told_after_the_second_try(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more try, not many: a nonce that is wrong the second time too ends the renewal."""
    _, session, _ = road.started()
    session._nonce = bytes(32)
    sent: list[str] = []
    renew = session.link.renew
    monkeypatch.setattr(session.link, "renew", lambda run, request: (sent.append(run), renew(run, request))[1])
    assert code_of(session.renew) == "nonce_mismatch"
    assert len(sent) == 2


def test_a_version_without_the_job_ends_the_lease(road: Road) -> None:
    """The newest version decides: where it has no such job there is nothing to judge evidence by, and no lease goes on."""
    run, session, _ = road.started()
    document = road.document()
    document["metadata"] |= {"version": 2, "predecessor": road.agreement.digest}
    document["jobs"]["study"] = document["jobs"].pop("train")
    document["jobs"]["serve"]["model"] = "study.outputs.model"
    road.in_force(agreement_from_json(document))
    assert code_of(session.renew) == "job_unknown"
    view = road.run(run)
    assert (view.state, view.reasons[0]["code"], view.reasons[-1]["code"]) == ("lost", "job_unknown", "no_baseline")
