"""Agent and runner over their socket pair."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from perunml.attesters.simulated import SimulatedAttester
from perunml.evidence.bundle import Bundle
from perunml.host.channel import EvidenceRequest, EvidenceSource, Handlers, answer_runner
from perunml.host.codes import DELIVERY_MISMATCH
from perunml.wire.errors import Unreachable, refuse
from perunml.wire.identity import SigningKey

REQUEST = EvidenceRequest(
    purpose="renew", nonce=b"n" * 32, role="trainer", session_hpke="hpke:x", session_tls="ed25519:x", agreement="sha256:a",
    run="sha256:b", payload="",
)  # fmt: skip


@contextmanager
def agent(collect: Callable[[EvidenceRequest], Any], seen: list[Any] | None = None) -> Iterator[EvidenceSource]:
    ours, theirs = socket.socketpair()
    told: list[Any] = [] if seen is None else seen
    handlers = Handlers(collect, told.append, lambda: told.append("forget"), told.append)
    thread = threading.Thread(target=answer_runner, args=(ours, handlers))
    thread.start()
    source = EvidenceSource(theirs)
    try:
        yield source
    finally:
        source.close()
        thread.join()


def test_evidence_comes_back_and_acceptance_is_told() -> None:
    """A bundle travels as it is; `accepted` names the bundle last collected."""
    attester = SimulatedAttester.of(SigningKey.generate())
    seen: list[Any] = []
    with agent(lambda request: attester.collect(request.nonce + b"x" * 16), seen) as source:
        bundle = Bundle.from_json(source.collect(REQUEST))
        source.accepted()
        source.lease(12.5)
        source.forget()
    assert bundle == attester.collect(b"n" * 32 + b"x" * 16)
    assert seen == [bundle, 12.5, "forget"]


def test_refusing_agent_is_unreachable_evidence() -> None:
    """The agent will not vouch for another agreement; the runner learns the code, and the next request is answered."""
    attester = SimulatedAttester.of(SigningKey.generate())

    def collect(request: EvidenceRequest) -> Bundle:
        if request.agreement != "sha256:a":
            raise refuse(DELIVERY_MISMATCH, "another agreement")
        return attester.collect(b"b" * 48)

    with agent(collect) as source:
        with pytest.raises(Unreachable) as caught:
            source.collect(REQUEST.model_copy(update={"agreement": "sha256:other"}))
        assert caught.value.code == "agent_gone"
        assert caught.value.reasons[0].seen == "delivery_mismatch"
        source.collect(REQUEST)


def test_gone_agent_is_told_apart_from_evidence() -> None:
    """A closed socket raises at once; it never gives an empty bundle."""
    ours, theirs = socket.socketpair()
    ours.close()
    source = EvidenceSource(theirs)
    with pytest.raises(Unreachable) as caught:
        source.collect(REQUEST)
    assert caught.value.code == "agent_gone"
    source.close()


@pytest.mark.parametrize(
    "line", [b"\n", b"[]\n", b'{"ask":"other"}\n', b'{"ask":"collect"}\n', b'{"ask":"lease","deadline":"x"}\n']
)
def test_agent_ends_at_what_it_does_not_understand(line: bytes) -> None:
    """A runner gone astray gets nothing, and the agent's thread ends instead of the agent."""
    ours, theirs = socket.socketpair()
    handlers = Handlers(lambda request: None, lambda bundle: None, lambda: None, lambda deadline: None)
    thread = threading.Thread(target=answer_runner, args=(ours, handlers))
    thread.start()
    theirs.sendall(line)
    answer = theirs.makefile("rb").read() if line not in (b"\n",) else b""
    theirs.close()
    thread.join(10)
    assert not thread.is_alive()
    assert b"bundle" not in answer
