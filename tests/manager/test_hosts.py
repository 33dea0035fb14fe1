"""`GET /v1/hosts/{name}`: why a host was refused, told to its operator and to the agreement's parties, and to nobody else."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from manager.road import Road
from manager.world import World, code_of
from perunml.api.hosts import HostList
from perunml.client.connection import Connection
from perunml.wire.errors import PerunError


@pytest.fixture(scope="module")
def road(world: World, tmp_path_factory: pytest.TempPathFactory) -> Road:
    """A trainer that loads what nobody agreed on, and is refused."""
    made = Road(world, tmp_path_factory.mktemp("hosts"))
    made.tpm.measure("/opt/unlisted", b"evil")
    run = made.submit()
    assert code_of(lambda: made.release(run.run)) == "not_in_policy"
    made.refused = run.run  # type: ignore[attr-defined]  # for the tests below
    return made


def ask(party: Connection, name: str) -> HostList:
    return party.call("GET", f"/v1/hosts/{quote(name, safe='')}", HostList)


@pytest.mark.parametrize("party", ["cloud", "hospital", "startup"])
def test_those_who_may_know_are_told_everything(road: Road, party: str) -> None:
    """The operator, and the parties of the agreement: by name and by id, with the reasons as the host got them."""
    for name in ("trainer", road.trainer.machine):
        (host,) = ask(road.party[party], name).hosts
        assert (host.name, host.machine, host.simulated) == ("trainer", road.trainer.machine, True)
        (refusal,) = host.refusals
        assert (refusal.agreement, refusal.purpose) == (road.agreement.digest, "release")
        assert refusal.run == road.refused  # type: ignore[attr-defined]  # set by the fixture
        assert [reason["code"] for reason in refusal.reasons] == ["not_in_policy"]
        assert refusal.reasons[0]["message"] == "/opt/unlisted was loaded and is not agreed"


def test_its_operator_is_told_of_a_host_that_was_never_refused(road: Road) -> None:
    """An empty list; a party that is not its operator learns nothing of it."""
    (host,) = ask(road.party["cloud"], "server").hosts
    assert host.refusals == []
    assert code_of(lambda: ask(road.party["hospital"], "server")) == "not_entitled"


def test_others_get_the_answer_of_an_unknown_host(road: Road, world: World) -> None:
    """A stranger who is admitted, by name and by id: word for word what an unknown name gets."""
    stranger = world.party()
    said = set()
    for name in ("trainer", road.trainer.machine, "no-such-host", "%", "ek:sha256:" + "0" * 64):
        with pytest.raises(PerunError) as caught:
            ask(stranger, name)
        said.add(str([reason.as_json() for reason in caught.value.reasons]))
    assert len(said) == 1
    assert "not_entitled" in said.pop()


def test_the_newest_refusal_is_the_one_that_is_told(road: Road) -> None:
    """One for each agreement."""
    road.tpm.measure("/opt/second", b"evil")
    run = road.submit()
    assert code_of(lambda: road.release(run.run)) == "not_in_policy"
    (host,) = ask(road.party["hospital"], "trainer").hosts
    assert [refusal.run for refusal in host.refusals] == [run.run]
    assert len(host.refusals[0].reasons) == 2
