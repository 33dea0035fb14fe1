"""A session with a manager that answers wrongly, or not at all; and the lease's keeper. (The honest one is in test_road.)"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from host.road import Road
from perunml.api.codes import UNREACHABLE
from perunml.api.runs import Challenge, KeyDelivery, ReleaseAnswer, ReleaseRequest, RenewAnswer
from perunml.host.channel import EvidenceRequest
from perunml.host.codes import LEASE_OVER
from perunml.host.lease import LeaseKeeper
from perunml.host.session import MAX_LEASE, Session
from perunml.release.codes import ASSET_SUSPENDED
from perunml.wire.encoding import b64
from perunml.wire.errors import PerunError, refuse
from perunml.wire.hpke import HpkePublicKey
from perunml.wire.rules import Reason

RUN, AGREEMENT = "ab" * 16, "sha256:" + "1" * 64


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    """A pin, and a certificate that TLS can load."""
    made = Road(tmp_path_factory.mktemp("road"))
    yield made
    made.close()


class Evidence:
    """Counts what is asked for."""

    def __init__(self) -> None:
        self.asked: list[EvidenceRequest] = []
        self.deadlines: list[float] = []
        self.told: list[str] = []

    def collect(self, request: EvidenceRequest) -> dict[str, Any]:
        self.asked.append(request)
        return {"parts": []}

    def accepted(self) -> None:
        self.told.append("accepted")

    def forget(self) -> None:
        self.told.append("forget")

    def lease(self, deadline: float) -> None:
        self.deadlines.append(deadline)


class Manager:
    """A link whose manager answers as told."""

    def __init__(self, road: Road, challenge: dict[str, Any], delivery: dict[str, Any], answer: dict[str, Any]) -> None:
        self.road, self.told, self.delivery, self.answer = road, challenge, delivery, answer
        self.sent: list[ReleaseRequest] = []
        self.silent = 0

    def challenge(self, run: str) -> Challenge:
        document = {"agreement": AGREEMENT, "job": "train", "run": run, "parameters": {}}
        made: dict[str, Any] = {
            "nonce": b"n" * 32, "expires_in": 30, "agreement": AGREEMENT, "run_document": document, "role": "trainer",
            "manager": self.road.pin.identity,
        }  # fmt: skip
        return Challenge(**{**made, **self.told})

    def release(self, run: str, request: ReleaseRequest) -> ReleaseAnswer:
        self.sent.append(request)
        if self.silent:
            self.silent -= 1
            raise refuse(UNREACHABLE, "no answer")
        delivery: dict[str, Any] = {
            "run": run, "agreement": AGREEMENT, "kind": "train", "job": {}, "entry": "train.py", "parameters": {},
            "inputs": {}, "outputs": {}, "clients": {}, "wall_seconds": 60, "simulated": True,
        }  # fmt: skip
        info = {"label": "perunml/release", "manager": self.road.pin.identity, "agreement": AGREEMENT, "run": run,
                "nonce": b64(request.nonce)} | self.answer.pop("info", {})  # fmt: skip
        sealed = HpkePublicKey(request.session_hpke).seal(KeyDelivery(**{**delivery, **self.delivery}).encode(), info)
        made: dict[str, Any] = {
            "sealed": sealed, "certificate": self.road.pin.certificate, "lease": "lease-1", "lease_seconds": 30,
            "next_nonce": b"m" * 32, "entry": 1, "checkpoint": "",
        }  # fmt: skip
        return ReleaseAnswer(**{**made, **self.answer})


def opened(road: Road, monkeypatch: pytest.MonkeyPatch, **answers: Any) -> tuple[Session, Evidence, Manager]:
    # The lease's link is never used here, and this certificate is the manager's own: not the session key's.
    monkeypatch.setattr("perunml.host.session.ManagerLink", lambda pin, client: None)
    evidence = Evidence()
    session = Session(road.pin, RUN, road.tpm.machine, evidence)
    manager = Manager(road, answers.get("challenge", {}), answers.get("delivery", {}), answers.get("answer", {}))
    return session, evidence, manager


@pytest.mark.parametrize(
    "challenge",
    [
        {"agreement": "sha256:" + "2" * 64},
        {"manager": "ed25519:other"},
        {"run_document": {"agreement": AGREEMENT, "run": "cd" * 16, "job": "train", "parameters": {}}},
        {"run_document": {"agreement": "sha256:" + "2" * 64, "run": RUN, "job": "train", "parameters": {}}},
        {"run_document": {}},
    ],
    ids=["agreement", "manager", "run", "document's agreement", "empty document"],
)
def test_challenge_for_something_else_gets_no_evidence(
    road: Road, monkeypatch: pytest.MonkeyPatch, challenge: dict[str, Any]
) -> None:
    """The machine vouches only for the run it was given: delivery_mismatch, and no evidence was collected."""
    session, evidence, manager = opened(road, monkeypatch, challenge=challenge)
    with pytest.raises(PerunError) as caught:
        session.release(manager, agreement=AGREEMENT)  # type: ignore[arg-type]  # a manager of our own making
    assert caught.value.code == "delivery_mismatch"
    assert evidence.asked == []


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({"answer": {"info": {"run": "cd" * 16}}}, "unseal_failed"),
        ({"answer": {"info": {"nonce": b64(b"o" * 32)}}}, "unseal_failed"),
        ({"delivery": {"run": "cd" * 16}}, "delivery_mismatch"),
        ({"delivery": {"agreement": "sha256:" + "2" * 64}}, "delivery_mismatch"),
        ({"answer": {"lease_seconds": 0}}, "delivery_mismatch"),
        ({"answer": {"lease_seconds": MAX_LEASE + 1}}, "delivery_mismatch"),
    ],
    ids=[
        "sealed for another run",
        "for another nonce",
        "another run's keys",
        "another agreement's",
        "no lease",
        "endless lease",
    ],
)
def test_wrong_delivery_is_refused(
    road: Road, monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any], code: str
) -> None:
    """C15: what was sealed in another context does not open; what opens must be this run's."""
    session, _, manager = opened(road, monkeypatch, **answers)
    with pytest.raises(PerunError) as caught:
        session.release(manager, agreement=AGREEMENT)  # type: ignore[arg-type]  # a manager of our own making
    assert caught.value.code == code


def test_lost_answer_is_asked_for_again_by_the_same_request(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """One key, one evidence, one request, however often it is sent; the lease counts from the sending that was answered."""
    session, evidence, manager = opened(road, monkeypatch)
    manager.silent = 1
    before = session._clock()
    delivery = session.release(manager, agreement=AGREEMENT)  # type: ignore[arg-type]  # a manager of our own making
    assert delivery.run == RUN
    assert len(evidence.asked) == 1
    assert manager.sent[0] == manager.sent[1]
    assert evidence.deadlines == [session.deadline]
    assert before + 30 < session.deadline <= session._clock() + 30
    assert evidence.told == ["accepted"]
    bound = evidence.asked[0]
    assert (bound.purpose, bound.session_tls, bound.session_hpke) == (
        "release",
        session.signer.public.text,
        session.hpke.public.text,
    )


def test_session_without_a_lease_has_no_link(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the release and after the end nothing can be fetched or sent."""
    session, _, _ = opened(road, monkeypatch)
    for _ in range(2):
        with pytest.raises(PerunError) as caught:
            _ = session.link
        assert caught.value.code == "lease_over"
        session.close()


class Leased:
    """A session as its keeper sees it: a deadline, and renewals that come out as told."""

    def __init__(self, outcomes: list[int | Reason | None], seconds: float) -> None:
        self.outcomes = outcomes
        self.lease_seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.renewals = 0

    def renew(self) -> RenewAnswer:
        self.renewals += 1
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome is None:
            raise refuse(UNREACHABLE, "no answer")
        if isinstance(outcome, Reason):
            raise refuse(outcome.rule, outcome.message)
        self.deadline = time.monotonic() + self.lease_seconds
        return RenewAnswer(lease_seconds=outcome, next_nonce=b"n" * 32)


def kept(session: Leased) -> tuple[list[list[str]], threading.Event, LeaseKeeper]:
    lost: list[list[str]] = []
    told = threading.Event()

    def on_lost(reasons: tuple[Reason, ...]) -> None:
        lost.append([reason.code for reason in reasons])
        told.set()

    keeper = LeaseKeeper(session, on_lost, clock=time.monotonic)  # type: ignore[arg-type]  # a session of our own making
    return lost, told, keeper.start()


def test_refused_renewal_loses_the_lease_at_once() -> None:
    """With the manager's own reasons, once, long before the lease's end."""
    session = Leased([1, Reason(ASSET_SUSPENDED, "suspended")], 0.6)
    lost, told, _ = kept(session)
    assert told.wait(30)
    assert lost == [["asset_suspended"]]
    assert session.renewals == 2


def test_silence_loses_the_lease_at_its_end() -> None:
    """Unreachable is not refused: it is tried again until the end, and then it is lease_over."""
    session = Leased([], 0.5)
    lost, told, _ = kept(session)
    assert told.wait(30)
    assert lost == [[LEASE_OVER.code]]
    assert time.monotonic() >= session.deadline
    assert session.renewals >= 1


def test_stopped_keeper_says_nothing() -> None:
    """A run that finishes in order does not hear of its lease's end."""
    session = Leased([], 0.3)
    lost, told, keeper = kept(session)
    keeper.stop()
    assert not told.wait(0.5)
    assert lost == []
