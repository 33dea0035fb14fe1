"""Agreements at the manager: proposals, approvals, versions, suspensions, outputs that wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from manager.road import PARTIES, Road
from manager.world import Threads, World, code_of
from perunml.agreements.document import agreement_from_json
from perunml.agreements.schema import Agreement
from perunml.api.agreements import AgreementList, AgreementView, ApproveAgreement
from perunml.manager import setup
from perunml.wire.dsse import signed
from perunml.wire.errors import PerunError
from perunml.wire.identity import SigningKey


@pytest.fixture(scope="module")
def road(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    return Road(world, tmp_path_factory.mktemp("road"), held={"approve": ["hospital"]})


def version(road: Road, number: int, predecessor: str | None, **changes: Any) -> Agreement:
    document = road.document()
    document["metadata"] = {"name": "line", "version": number}
    if predecessor:
        document["metadata"]["predecessor"] = predecessor
    document["jobs"]["train"]["limits"].update(changes)
    return agreement_from_json(document)


def test_in_force_with_the_last_approval(road: Road) -> None:
    """P3: one approval short is proposed, and nothing runs; who is missing stands there in words."""
    agreement = version(road, 1, None)
    assert road.propose(agreement).state == "proposed"
    for name in PARTIES[:3]:
        view = road.approve(agreement, name)
    assert view.state == "proposed"
    assert list(view.missing) == ["clinic"]
    assert code_of(lambda: road.submit(agreement=agreement.digest)) == "agreement_not_in_force"
    assert road.approve(agreement, "clinic").state == "in_force"


def test_approval_of_another_agreement(road: Road) -> None:
    """P5: an approval counts for the digest that it names only."""
    one, two = version(road, 1, None, runs=11), version(road, 1, None, runs=12)
    road.propose(one)
    road.propose(two)
    from perunml.agreements.approvals import approval

    body = approval(one, "hospital", one.ends)
    message = ApproveAgreement(approval=signed("Approval", body, road.keys["hospital"]))
    path = f"/v1/agreements/{quote(two.digest)}/approvals"
    party = road.party["hospital"]
    assert code_of(lambda: party.call("POST", path, AgreementView, message)) == "approval_mismatch"
    forged = ApproveAgreement(approval=signed("Approval", approval(two, "hospital", two.ends), road.keys["startup"]))
    assert code_of(lambda: party.call("POST", path, AgreementView, forged)) == "bad_signature"


def test_versions_follow_one_another(road: Road) -> None:
    """P6, P11: of two proposals for the next version one wins, and an older version never comes back."""
    first = version(road, 1, None, runs=21)
    road.in_force(first)
    left, right = version(road, 2, first.digest, runs=22), version(road, 2, first.digest, runs=23)
    road.propose(left)
    road.propose(right)
    for name in PARTIES[:3]:
        road.approve(left, name)
        road.approve(right, name)
    results = Threads().run([lambda a=a: road.approve(a, "clinic") for a in (left,)])
    assert results[0].state == "in_force"
    assert code_of(lambda: road.approve(right, "clinic")) == "version_rollback"
    assert code_of(lambda: road.propose(version(road, 2, first.digest, runs=24))) == "version_rollback"
    states = {
        view.digest: view.state for view in road.party["clinic"].call("GET", "/v1/agreements", AgreementList).agreements
    }
    assert (states[first.digest], states[left.digest], states[right.digest]) == ("superseded", "in_force", "proposed")
    assert code_of(lambda: road.submit(agreement=first.digest)) == "agreement_not_in_force"


def test_running_job_is_judged_by_the_newest_version(road: Road) -> None:
    """A version that names another machine ends the run of the old one at its next renewal."""
    own = Road.__new__(Road)
    own.__dict__.update(road.__dict__)
    own.agreement = version(road, 1, None, runs=31)
    own.in_force(own.agreement)
    _, session, _ = own.started()
    session.renew()
    document = road.document()
    document["metadata"] = {"name": "line", "version": 2, "predecessor": own.agreement.digest}
    document["hosts"]["trainer"]["machines"] = ["ek:sha256:" + "0" * 64]
    own.in_force(agreement_from_json(document))
    assert code_of(session.renew) == "machine_not_agreed"
    # One agreement per boot: the machine served this one, and serves the other only after a new resetCount.
    waiting = road.submit().run
    assert code_of(lambda: road.release(waiting)) == "boot_used_by_other_agreement"
    road.tpm.reboot()
    assert road.release(waiting)[1].simulated


def test_expired_approval(road: Road) -> None:
    """P12: an approval that has ended takes the agreement out of force."""
    agreement = version(road, 1, None, runs=41)
    road.propose(agreement)
    for name in PARTIES[:3]:
        road.approve(agreement, name)
    assert road.approve(agreement, "clinic", int(time.time()) + 2).state == "in_force"
    time.sleep(2.2)
    assert code_of(lambda: road.submit(agreement=agreement.digest)) == "agreement_not_in_force"
    assert code_of(lambda: road.approve(agreement, "clinic", int(time.time()) - 5)) == "approval_expired"


def test_stranger_proposes_nothing(road: Road) -> None:
    """Who proposes takes part: a stranger's agreement between others is refused, as is one for another manager."""
    agreement = version(road, 1, None, runs=51)
    road.keys["stranger"] = SigningKey.generate()
    road.party["stranger"] = road.world.party(road.keys["stranger"])
    assert code_of(lambda: road.propose(agreement, "stranger")) == "bad_signature"
    document = road.document()
    document["manager"]["key"] = SigningKey.generate().public.text
    assert code_of(lambda: road.propose(agreement_from_json(document))) == "malformed"


def test_no_first_setter(own_world: World) -> None:
    """P18: before a key is admitted locally nobody may do anything, however early they come."""
    stranger = own_world.party(admitted=False)
    assert code_of(lambda: stranger.call("GET", "/v1/agreements", AgreementList)) == "request_unsigned"
    setup.admit(own_world.folder, [stranger._signer.public.text])
    assert stranger.call("GET", "/v1/agreements", AgreementList).agreements == []


def test_suspension_by_its_owner_only(road: Road) -> None:
    """P1, P2: only the owner suspends, each change names the one before it, and a change is good once."""
    assert code_of(lambda: road.suspend("scans", "startup")) == "not_on_board"
    assert road.suspend("scans", "hospital").suspended
    assert code_of(lambda: road.suspend("scans", "hospital")) == "change_out_of_order"
    assert not road.suspend("scans", "hospital", lift=True).suspended


def test_output_waits_for_its_approval(road: Road) -> None:
    """An output leaves only with the approvals that the agreement names, each for this very output."""
    run, sealed, _ = road.trained()
    assert road.run(run).outputs[0].released_to == []
    assert code_of(lambda: road.delivery(sealed.digest)) == "output_held"
    other_run, other, _ = road.trained(b"other weights")
    road.approve_output(other_run, other.digest, "hospital")
    assert code_of(lambda: road.delivery(sealed.digest)) == "output_held"
    assert code_of(lambda: road.approve_output(other_run, sealed.digest, "hospital")) == "approval_mismatch"
    assert road.approve_output(run, sealed.digest, "hospital").released_to == ["startup"]
    assert road.delivery(sealed.digest).party == "startup"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"parameters": {"epochs": 6}}, "parameter_out_of_range"),
        ({"parameters": {"epochs": 2, "extra": 1}}, "parameter_out_of_range"),
        ({"assets": {"unet": "sha256:" + "0" * 64}}, "digest_not_agreed"),
        ({"assets": {"other": "sha256:" + "0" * 64}}, "digest_not_agreed"),
        ({"job": "nothing"}, "job_unknown"),
        ({"id": "../../etc"}, "malformed"),
        ({"manager": "ed25519:x"}, "malformed"),
        ({"agreement": "sha256:" + "0" * 64}, "not_entitled"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)
def test_run_that_was_not_agreed(road: Road, changes: dict[str, Any], code: str) -> None:
    """A run outside of what was agreed is refused when it is asked for."""
    assert code_of(lambda: road.submit(**changes)) == code


def test_run_asked_for_twice_is_one(road: Road) -> None:
    """The same signed request again is the same run; another request with its id is refused."""
    run = road.submit(id="ab" * 16)
    assert road.submit(id="ab" * 16).run == run.run
    assert code_of(lambda: road.submit(id="ab" * 16, parameters={"epochs": 1})) == "run_conflict"


def test_many_suspensions_at_once(road: Road) -> None:
    """Parallel changes of one asset: exactly one follows the newest."""
    subject = road.agreement.assets["unet"].digest
    assert subject
    results = Threads().run([lambda: road.suspend("unet", "startup") for _ in range(6)])
    assert sum(not isinstance(result, PerunError) for result in results) == 1
    road.suspend("unet", "startup", lift=True)


def test_folder_is_set_up_once(tmp_path: Path, world: World) -> None:
    """A folder that holds something is no place for a new manager, and two do not run on one folder (S5)."""
    from manager.world import PASSPHRASE, cached_keys
    from perunml.manager.server import Server

    assert code_of(lambda: setup.init(world.folder, PASSPHRASE, url="https://127.0.0.1:1")) == "folder_in_use"
    assert code_of(lambda: setup.init(tmp_path / "x", PASSPHRASE, url="http://127.0.0.1:1")) == "malformed"
    assert code_of(lambda: Server(world.folder, cached_keys(world.folder))) == "folder_in_use"
    assert code_of(lambda: Server(tmp_path, cached_keys(world.folder))) == "folder_in_use"
