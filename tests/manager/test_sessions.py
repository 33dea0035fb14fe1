"""Nonces, sessions and leases: whatever is not this session's next word is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manager.road import Evidence, Road
from manager.world import Threads, World, code_of
from perunml.api.runs import FinishRequest, QuotaRequest, ReleaseAnswer, ReleaseRequest, RenewRequest
from perunml.host.session import Session
from perunml.manager.clock import monotonic
from perunml.manager.pending import CHALLENGE_TTL, Challenges
from perunml.wire.digests import digest_of
from perunml.wire.encoding import b64
from perunml.wire.errors import PerunError
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey


@pytest.fixture(scope="module")
def road(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    return Road(world, tmp_path_factory.mktemp("road"))


class Asking:
    """A release by hand, so that each part of it can be another."""

    def __init__(self, road: Road, run: str = "") -> None:
        self.road = road
        self.run = run or road.submit().run
        self.challenge = road.trainer.link.challenge(self.run)
        self.key = SigningKey.generate()
        self.hpke = HpkePrivateKey.generate()
        self.evidence = Evidence(road.tpm, road.world.pin.identity)

    def request(self, **bound: Any) -> ReleaseRequest:
        parts = {
            "purpose": "release",
            "nonce": self.challenge.nonce,
            "role": self.challenge.role,
            "session_hpke": self.hpke.public.text,
            "session_tls": self.key.public.text,
            "agreement": self.challenge.agreement,
            "run": digest_of(self.challenge.run_document),
            "payload": "",
        }
        self.evidence.changes = bound

        class Request:
            pass

        made = Request()
        for name, value in parts.items():
            setattr(made, name, value)
        return ReleaseRequest(
            nonce=self.challenge.nonce,
            session_hpke=self.hpke.public.text,
            session_key=self.key.public.text,
            evidence=self.evidence.collect(made),
        )

    def send(self, request: ReleaseRequest) -> ReleaseAnswer:
        return self.road.trainer.link.release(self.run, request)

    def code(self, request: ReleaseRequest) -> str:
        return code_of(lambda: self.send(request))


def test_same_request_gets_the_same_ciphertext(road: Road) -> None:
    """A lost answer is given again to the very same request, and opens for its session key alone (C15)."""
    asking = Asking(road)
    request = asking.request()
    first, second = asking.send(request), asking.send(request)
    assert (first.sealed, first.lease, first.certificate) == (second.sealed, second.lease, second.certificate)
    assert second.lease_seconds <= first.lease_seconds
    info = {
        "label": "perunml/release", "manager": road.world.pin.identity, "agreement": asking.challenge.agreement,
        "run": asking.run, "nonce": b64(asking.challenge.nonce),
    }  # fmt: skip
    assert asking.hpke.open(first.sealed, info)
    assert code_of(lambda: HpkePrivateKey.generate().open(first.sealed, info)) == "unseal_failed"


def test_same_evidence_twice(road: Road) -> None:
    """N1: the same evidence in another request, after it was accepted."""
    asking = Asking(road)
    request = asking.request()
    asking.send(request)
    assert asking.code(request.model_copy(update={"endpoint": "https://x:1"})) == "nonce_used"


def test_old_evidence_in_a_new_session(road: Road) -> None:
    """N2: evidence of one challenge sent for the next."""
    old = Asking(road)
    request = old.request()
    new = Asking(road, old.run)
    assert new.code(request) == "nonce_mismatch"
    assert new.code(request.model_copy(update={"nonce": new.challenge.nonce})) == "binding_mismatch"


def test_nonce_of_another_run(road: Road) -> None:
    """N3: a nonce that was given out for another run."""
    one, other = Asking(road), Asking(road)
    assert one.code(one.request().model_copy(update={"nonce": other.challenge.nonce})) == "nonce_mismatch"


@pytest.mark.parametrize("nonce", ["", None, "missing", "text"])
def test_nonce_that_is_none(road: Road, nonce: Any) -> None:
    """N5, N7: absent, empty, null, or text instead of bytes is never skipped."""
    asking = Asking(road)
    body = asking.request().model_dump(mode="json")
    if nonce == "missing":
        del body["nonce"]
    else:
        body["nonce"] = asking.challenge.nonce.hex() if nonce == "text" else nonce
    link, path = road.trainer.link, f"/v1/runs/{asking.run}/release"
    from perunml.wire.canonical import canonical

    assert code_of(lambda: link._send("POST", path, canonical(body))) == "malformed"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda n: n[:31],
        lambda n: n + bytes(1),
        lambda n: n + b"junk",
        lambda n: n.hex().encode()[:32],
        lambda n: bytes(32),
    ],
    ids=["prefix", "zeros", "junk", "hex", "zero"],
)
def test_evidence_over_almost_the_nonce(road: Road, spoil: Any) -> None:
    """N6, N7: evidence that covers a prefix of the nonce, more than it, or its text."""
    asking = Asking(road)
    assert asking.code(asking.request(nonce=spoil(asking.challenge.nonce))) == "binding_mismatch"


@pytest.mark.parametrize(
    "bound",
    [
        {"session_hpke": HpkePrivateKey.generate().public.text},
        {"session_tls": SigningKey.generate().public.text},
        {"agreement": "sha256:" + "0" * 64},
        {"run": "sha256:" + "0" * 64},
        {"host": "ek:sha256:" + "0" * 64},
        {"manager": SigningKey.generate().public.text},
        {"purpose": "renew"},
        {"role": "inference"},
        {"payload": "sha256:" + "0" * 64},
    ],
    ids=lambda bound: next(iter(bound)),
)
def test_evidence_for_something_else(road: Road, bound: dict[str, Any]) -> None:
    """C2, C3: a session key, run, agreement, host, manager, purpose or role that the evidence does not cover."""
    asking = Asking(road)
    assert asking.code(asking.request(**bound)) == "binding_mismatch"


def test_refusal_is_in_the_ledger_and_uses_the_nonce_up(road: Road) -> None:
    """A refused answer consumes its challenge, and the run's parties can read why."""
    asking = Asking(road)
    assert asking.code(asking.request(role="inference")) == "binding_mismatch"
    assert asking.code(asking.request()) == "nonce_used"
    assert road.run(asking.run).reasons[0]["code"] == "binding_mismatch"


def test_hosts_that_keep_failing_end_the_run(road: Road) -> None:
    """Three refusals of evidence in a row, and the run is refused."""
    run = road.submit().run
    for _ in range(3):
        asking = Asking(road, run)
        assert asking.code(asking.request(role="inference")) == "binding_mismatch"
    assert road.run(run).state == "refused"
    assert code_of(lambda: road.trainer.link.challenge(run)) == "run_not_open"


def test_parallel_answers_with_one_nonce(road: Road) -> None:
    """N9: of many answers to one challenge, exactly one is accepted."""
    asking = Asking(road)
    request = asking.request()
    calls = [
        lambda port=port: asking.send(request.model_copy(update={"endpoint": f"https://x:{port}"})) for port in range(8)
    ]
    results = Threads().run(calls)
    refused = [result.code for result in results if isinstance(result, PerunError)]
    assert len(refused) == 7
    assert set(refused) == {"nonce_used"}


def test_parallel_renewals_with_one_nonce(road: Road) -> None:
    """N9: a renewal's nonce too is good for one answer."""
    _, session, _ = road.started()
    requests = []
    for _ in range(4):
        bundle = session._evidence.collect(session._request("renew", session._nonce, ""))
        requests.append(RenewRequest(nonce=session._nonce, evidence=bundle))
    results = Threads().run([lambda r=r: session.link.renew(session.run, r) for r in requests])
    refused = [result.code for result in results if isinstance(result, PerunError)]
    assert refused == ["nonce_used"] * 3


def test_renewal_again_gets_the_same_answer(road: Road) -> None:
    """The very same renewal again gets the same nonce again; another request with that nonce is refused."""
    _, session, _ = road.started()
    bundle = session._evidence.collect(session._request("renew", session._nonce, ""))
    request = RenewRequest(nonce=session._nonce, evidence=bundle)
    first = session.link.renew(session.run, request)
    assert session.link.renew(session.run, request).next_nonce == first.next_nonce
    other = session._evidence.collect(session._request("renew", session._nonce, ""))
    again = RenewRequest(nonce=session._nonce, evidence=other)
    assert code_of(lambda: session.link.renew(session.run, again)) == "nonce_used"


def test_renewal_again_after_the_lease_ended(road: Road) -> None:
    """Nothing from a session is accepted once it is over: not even the renewal that was answered before. A finish is."""
    run, session, _ = road.started()
    bundle = session._evidence.collect(session._request("renew", session._nonce, ""))
    request = RenewRequest(nonce=session._nonce, evidence=bundle)
    session._nonce = session.link.renew(run, request).next_nonce
    bundle = session._evidence.collect(session._request("finish", session._nonce, digest_of({})))
    finish = FinishRequest(nonce=session._nonce, evidence=bundle, outputs={})
    first = session.link.finish(run, finish)
    assert session.link.finish(run, finish).receipt == first.receipt
    assert code_of(lambda: session.link.renew(run, request)) == "lease_ended"


def test_quotes_that_arrive_out_of_order(road: Road) -> None:
    """Two runs of one host that quote at once: the older quote, coming second, is still good. An honest host is served."""
    one, two = Asking(road), Asking(road)
    first, second = one.request(), two.request()
    assert two.send(second).lease
    assert one.send(first).lease


def test_unknown_nonce_after_restart(own_world: World, tmp_path: Path) -> None:
    """N8, S11: a restarted manager knows no challenge, and a lease goes on."""
    road = Road(own_world, tmp_path / "road")
    _, session, _ = road.started()
    asking = Asking(road)
    request = asking.request()
    own_world.restart()
    assert code_of(lambda: road.trainer.link.release(asking.run, request)) == "nonce_mismatch"
    assert session.renew().lease_seconds == 30
    assert road.release(asking.run)[1].run == asking.run


def test_late_answer() -> None:
    """N4, N11: a challenge ends by the monotonic clock, whatever the wall clock says, and stays ended."""
    now = [1000.0]
    challenges = Challenges(lambda: now[0])
    made = challenges.reserve("r", "m", "role", "a", "", 0)
    now[0] += CHALLENGE_TTL + 1
    assert challenges.reserved("r") is None
    assert code_of(lambda: challenges.take(made.nonce, "r", "m")) == "nonce_expired"
    assert code_of(lambda: challenges.take(made.nonce, "r", "m")) == "nonce_used"


def test_many_challenges_are_unlike() -> None:
    """N10: 10^5 challenges are unique and 32 bytes long, and the memory they take is bounded."""
    challenges = Challenges(monotonic)
    nonces = {challenges.reserve(f"r{i % 1000}", "m", "role", "a", "", 0).nonce for i in range(100_000)}
    assert len(nonces) == 100_000
    assert {len(nonce) for nonce in nonces} == {32}
    assert len(challenges._runs) == 1000


def test_state_changed_in_mid_run(road: Road) -> None:
    """C14, I5: a file that the baseline does not name ends the lease, and nothing from that session is accepted."""
    from perunml.testing.forge import ForgedTpm

    world, tpm = road.world, ForgedTpm()
    own = Road.__new__(Road)
    own.__dict__.update(road.__dict__)
    own.tpm = tpm
    own.trainer = world.enrol(road.keys["cloud"], f"evil-{time.monotonic_ns()}", tpm)
    from perunml.agreements.document import agreement_from_json

    document = own.document()
    document["metadata"] = {"name": "evil"}
    own.agreement = agreement_from_json(document)
    own.in_force(own.agreement)
    run, session, delivery = own.started()
    session.renew()
    tpm.measure("/tmp/evil", b"evil")
    assert code_of(session.renew) == "not_in_policy"
    view = own.run(run)
    assert (view.state, view.reasons[0]["code"]) == ("lost", "not_in_policy")
    assert code_of(session.renew) == "lease_ended"
    assert code_of(lambda: own.output(session, delivery)) == "lease_ended"
    assert code_of(lambda: session.link.quota(run, QuotaRequest(wanted=1))) == "lease_ended"
    blob = own.scans.manifest.all_blobs[0].id
    assert code_of(lambda: session.link.read_blob(own.scans.digest, blob, 0, 1)) == "lease_ended"


def test_certificate_of_another_kind(road: Road) -> None:
    """C10: a lease's certificate asks for no challenge, a machine's renews nothing, one lease speaks for one run."""
    run, session, _ = road.started()
    other, second, _ = road.started()
    queued = road.submit().run
    assert code_of(lambda: session.link.challenge(queued)) == "request_unsigned"
    bundle = session._evidence.collect(session._request("renew", session._nonce, ""))
    request = RenewRequest(nonce=session._nonce, evidence=bundle)
    assert code_of(lambda: road.trainer.link.renew(run, request)) == "request_unsigned"
    assert code_of(lambda: second.link.renew(run, request)) == "not_entitled"
    assert code_of(lambda: session.link.renew(other, request)) == "not_entitled"


def test_lease_reads_only_what_was_granted(road: Road) -> None:
    """C12: another asset of the same owner is out of a lease's reach."""
    from manager.road import push, seal

    other = seal(road.folder / "other", road.keys["hospital"], "other", "dataset", {"x": b"y"})
    push(road.party["hospital"], other)
    _, session, _ = road.started()
    blob = other.manifest.all_blobs[0].id
    assert code_of(lambda: session.link.read_blob(other.digest, blob, 0, 1)) == "not_entitled"


def test_suspended_between_challenge_and_release(road: Road) -> None:
    """C11: what is suspended after the evidence was asked for is not released; nor renewed, registered, delivered."""
    _, sealed, _ = road.trained()
    _, session, delivery = road.started()
    asking = Asking(road)
    request = asking.request()
    road.suspend("scans", "hospital")
    try:
        assert asking.code(request) == "asset_suspended"
        assert code_of(road.submit) == "asset_suspended"
        assert code_of(lambda: road.output(session, delivery)) == "asset_suspended"
        assert code_of(lambda: road.delivery(sealed.digest)) == "asset_suspended"
        assert code_of(session.renew) == "asset_suspended"
        assert road.run(session.run).state == "lost"
    finally:
        road.suspend("scans", "hospital", lift=True)
    assert road.delivery(sealed.digest).party == "startup"


def test_reserved_run_waits_for_its_host(road: Road) -> None:
    """A running run is nobody else's, and a machine that the role does not name sees no run at all."""
    run, _, _ = road.started()
    assert code_of(lambda: road.trainer.link.challenge(run)) == "run_reserved"
    queued = road.submit().run
    assert code_of(lambda: road.server.link.challenge(queued)) == "not_entitled"
    assert code_of(lambda: road.server.link.challenge("0" * 32)) == "not_entitled"


def test_lease_that_is_not_renewed_is_lost_and_resumed(own_world: World, tmp_path: Path) -> None:
    """A run whose host went silent is resumed as often as agreed, by new session keys only after the old lease ended; what
    the old session registered is not taken for the new one's."""
    road = Road(own_world, tmp_path / "road", {"runs": 2, "resumes": 1}, lease="2s")
    run, first, delivery = road.started()
    road.output(first, delivery)
    _wait(road, run, "queued")
    assert code_of(first.renew) == "lease_ended"
    second, _ = road.release(run)
    assert second.lease_id != first.lease_id
    second.finish({})
    assert (road.run(run).state, road.run(run).outputs) == ("finished", [])
    run, _, _ = road.started()
    _wait(road, run, "queued")
    road.release(run)
    _wait(road, run, "lost")
    assert code_of(road.submit) == "runs_exhausted"


def _wait(road: Road, run: str, wanted: str) -> None:
    deadline = time.monotonic() + 20
    while road.run(run).state != wanted:
        assert time.monotonic() < deadline, road.run(run)
        time.sleep(0.1)


def test_fourth_run_where_three_were_agreed(own_world: World, tmp_path: Path) -> None:
    """Runs count at their release; queued ones beyond the limit are refused there, submitted ones at once."""
    road = Road(own_world, tmp_path / "road", {"runs": 3})
    waiting = [road.submit().run for _ in range(4)]
    for run in waiting[:3]:
        road.release(run)
    assert code_of(lambda: road.release(waiting[3])) == "runs_exhausted"
    assert road.run(waiting[3]).state == "refused"
    assert code_of(road.submit) == "runs_exhausted"


def test_hundred_parallel_releases(road: Road) -> None:
    """D11: a hundred hosts' sessions at once, and each gets its own keys."""
    runs = [road.submit().run for _ in range(100)]
    results: list[Any] = []
    for start in range(0, 100, 20):
        calls = [lambda run=run: _released(road, run) for run in runs[start : start + 20]]
        results += Threads().run(calls)
    assert [result for result in results if isinstance(result, PerunError)] == []
    assert sorted(run for run, _ in results) == sorted(runs)
    assert len({key for _, key in results}) == 100


def _released(road: Road, run: str) -> tuple[str, bytes]:
    host = road.world.link(road.trainer.enrolled.certificate, road.trainer.tls)
    session = Session(road.world.pin, run, road.trainer.machine, Evidence(road.tpm, road.world.pin.identity))
    try:
        delivery = session.release(host, agreement=road.agreement.digest)
        return delivery.run, delivery.outputs["model"].key
    finally:
        session.close()
        host.close()
