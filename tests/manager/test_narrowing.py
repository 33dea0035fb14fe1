"""Versions at the manager: one party narrows alone, and gains nothing by it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manager.road import PARTIES, Road, push, seal
from manager.world import Threads, World, code_of
from perunml.agreements.document import agreement_from_json
from perunml.agreements.schema import Agreement
from perunml.api.agreements import AgreementList, AgreementView
from perunml.wire.dsse import signed
from perunml.wire.errors import PerunError
from perunml.wire.identity import SigningKey


@pytest.fixture(scope="module")
def road(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    return Road(world, tmp_path_factory.mktemp("road"))


def line(road: Road, name: str, **expires: int) -> Road:
    """The same world under an agreement line of its own, whose first version is in force."""
    own = Road.__new__(Road)
    own.__dict__.update(road.__dict__)
    document = road.document()
    document["metadata"] = {"name": name}
    own.agreement = agreement_from_json(document)
    own.propose(own.agreement)
    for party in PARTIES:
        view = own.approve(own.agreement, party, expires.get(party))
    assert view.state == "in_force"
    road.tpm.reboot()  # one agreement per boot
    return own


def following(own: Road, **limits: Any) -> Agreement:
    document = own.document()
    before = own.agreement.metadata
    document["metadata"] = {"name": before.name, "version": before.version + 1, "predecessor": own.agreement.digest}
    document["jobs"]["train"]["limits"].update(limits)
    return agreement_from_json(document)


def test_an_owner_narrows_alone_and_it_holds_at_once(road: Road) -> None:
    """In force by the hospital's word; a run under way is judged by it at its next renewal, and its output leaves under it."""
    own = line(road, "alone")
    _, session, delivery = own.started()
    made = following(own, runs=999, wall="30m")
    own.propose(made, "hospital")
    assert own.approve(made, "clinic").state == "proposed"
    view = own.approve(made, "hospital")
    assert (view.state, view.missing) == ("in_force", {})
    assert view.approved == ["clinic", "hospital"]
    session.renew()
    sealed = own.output(session, delivery)
    session.finish({"model": sealed.digest})
    assert own.delivery(sealed.digest).party == "startup"
    own.agreement = made
    assert own.submit().state == "queued"


def test_nobody_widens_alone(road: Road) -> None:
    """Each party in turn is the one that is missing."""
    own = line(road, "wide")
    for runs, left_out in enumerate(PARTIES, 1001):
        made = following(own, runs=runs)
        own.propose(made)
        views = [own.approve(made, name) for name in PARTIES if name != left_out]
        assert (views[-1].state, list(views[-1].missing)) == ("proposed", [left_out])


def test_p11_of_two_narrowings_at_once_one_wins(road: Road) -> None:
    """P11: two parties, each of which may, at the same moment: one version follows, the other's votes are void for good."""
    own = line(road, "race")
    rivals = {"hospital": following(own, runs=10), "cloud": following(own, runs=20)}
    for name, made in rivals.items():
        own.propose(made, name)

    def approve(name: str) -> AgreementView | PerunError:
        try:
            return own.approve(rivals[name], name)
        except PerunError as exc:
            return exc

    results = Threads().run([lambda n=name: approve(n) for name in rivals])
    assert sorted(found.state if isinstance(found, AgreementView) else found.code for found in results) == [
        "in_force",
        "version_rollback",
    ]
    views = {v.digest: v.state for v in road.party["clinic"].call("GET", "/v1/agreements", AgreementList).agreements}
    assert sorted(views[made.digest] for made in rivals.values()) == ["in_force", "proposed"]
    (late,) = [made for made in rivals.values() if views[made.digest] == "proposed"]
    for name in PARTIES:
        assert code_of(lambda n=name: own.approve(late, n)) == "version_rollback"
    assert code_of(lambda: own.propose(following(own, runs=5))) == "version_rollback"  # P6: follows the first again


def test_p12_a_narrowing_does_not_draw_out_anothers_approval(road: Road) -> None:
    """The clinic agreed for a moment; the hospital's version ends with it all the same, until the clinic agrees to it."""
    own = line(road, "lapse", clinic=int(time.time()) + 3)
    made = following(own, runs=999)
    own.propose(made, "hospital")
    assert own.approve(made, "hospital").state == "in_force"
    own.agreement = made
    assert own.submit().state == "queued"
    time.sleep(3.2)
    assert code_of(own.submit) == "agreement_not_in_force"
    assert own.approve(made, "clinic").missing == {}
    assert own.submit().state == "queued"


def test_c16_a_key_that_its_party_gave_up_opens_nothing_for_whoever_lists_it_next(road: Road, tmp_path: Path) -> None:
    """Startup and cloud write the hospital's former key into their own party, and a dataset that it sealed into a job of theirs: nobody
    else is touched, the version is in force, and the dataset stays where it is."""
    own = line(road, "listed")
    other = seal(tmp_path / "other", own.keys["hospital"], "other", "dataset", {"b.csv": b"3,4\n"})
    assert push(own.party["hospital"], other).complete
    former, own.keys = own.keys["hospital"], {**own.keys, "hospital": SigningKey.generate()}
    own.party = {**own.party, "hospital": own.world.party(own.keys["hospital"])}
    rotated = following(own)
    own.propose(rotated)
    assert own.approve(rotated, "hospital").state == "proposed"  # the new key alone
    by_former = Road.__new__(Road)
    by_former.__dict__.update({**own.__dict__, "keys": {**own.keys, "hospital": former}})
    by_former.party = {**own.party, "hospital": own.world.party(former)}
    seen = by_former.party["hospital"].call("GET", "/v1/agreements", AgreementList).agreements
    assert rotated.digest in [view.digest for view in seen]
    assert by_former.approve(rotated, "hospital").state == "in_force"
    seen = by_former.party["hospital"].call("GET", "/v1/agreements", AgreementList).agreements
    assert rotated.digest not in [view.digest for view in seen]  # it is nobody's key any more

    own.agreement = rotated
    document = own.document()
    document["metadata"] = {"name": "listed", "version": 3, "predecessor": rotated.digest}
    startup = document["parties"]["startup"]
    startup["keys"]["found"] = former.public.text
    startup["approve"] = "main"
    document["assets"]["loot"] = {"kind": "dataset", "owner": "startup", "digest": other.digest}
    job = document["jobs"]["train"]
    document["jobs"]["steal"] = {**job, "inputs": {"loot": "/in/loot"}, "parameters": {}, "outputs": {}}
    own.agreement = agreement_from_json(document)
    own.propose(own.agreement)
    own.approve(own.agreement, "startup")
    assert own.approve(own.agreement, "cloud").state == "in_force"
    run = own.submit("steal").run
    assert code_of(lambda: own.release(run)) == "owner_not_agreed"
    assert signed("RunRequest", {}, former).signatures
