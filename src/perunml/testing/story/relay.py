"""The relay attack, staged: the operator has root on an honest machine, and wants its keys for a session of his own.

He holds the machine's certificate and can have its TPM quote what the honest agent would have it quote: a binding over the
honest session's keys. He sends that quote with session keys of his own. (Could he have the TPM quote his own keys, then he
would run his own code on the measured machine, and that is what IMA's log and the baseline show.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perunml.api.pin import Pin
from perunml.attesters.base import Attester
from perunml.evidence.binding import binding
from perunml.host.channel import EvidenceRequest
from perunml.host.enrol import membership
from perunml.host.protocol import ManagerLink
from perunml.host.session import Session
from perunml.wire.errors import PerunError
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey


class HonestEvidence:
    """Evidence of the honest machine for an honest session, whatever the thief's session asks for."""

    def __init__(self, pin: Pin, attester: Attester) -> None:
        self._pin = pin
        self._attester = attester
        self._hpke = HpkePrivateKey.generate().public.text
        self._tls = SigningKey.generate().public.text

    def collect(self, request: EvidenceRequest) -> dict[str, Any]:
        bound = binding(
            purpose=request.purpose,
            nonce=request.nonce,
            role=request.role,
            session_hpke=self._hpke,
            session_tls=self._tls,
            manager=self._pin.identity,
            agreement=request.agreement,
            run=request.run,
            host=self._attester.machine,
            payload=request.payload,
        )
        return self._attester.collect(bound).as_json()

    def accepted(self) -> None:
        pass

    def forget(self) -> None:
        pass

    def lease(self, deadline: float) -> None:
        pass


def relay(pin: Pin, attester: Attester, folder: Path, run: str, agreement: str) -> PerunError | None:
    """What the manager says to the thief; None if it gave him the keys."""
    member = membership(pin, attester.machine, folder)
    session = Session(pin, run, attester.machine, HonestEvidence(pin, attester))
    with ManagerLink(pin, (member.certificate, member.key)) as link:
        try:
            session.release(link, agreement=agreement)
        except PerunError as refusal:
            return refusal
        finally:
            session.close()
    return None
