"""What lives in memory only, because a restarted manager must not know it: challenges and begun enrolments. Bounded, and
single use."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from perunml.api.runs import NONCE_SIZE
from perunml.evidence.policy import Machine
from perunml.manager.codes import (
    ENROLMENT_FAILED,
    NONCE_EXPIRED,
    NONCE_MISMATCH,
    NONCE_USED,
    RATE_LIMITED,
    RUN_RESERVED,
)
from perunml.wire.errors import refuse

CHALLENGE_TTL = 60.0
"""Seconds from challenge to release: a quote takes milliseconds, a first IMA log of 15 MB some seconds to send."""
ENROLMENT_TTL = 120.0
HANDOVER_TTL = 300.0
"""Seconds from the nonce to the end of an answer, which may be a log of 20 MB."""
MAX_CHALLENGES = 20_000
MAX_ENROLMENTS = 2_000
"""D7: an enrolment begun holds 2 KiB."""
MAX_PER_OPERATOR = 64
MAX_HANDOVERS, MAX_PER_ADDRESS = 64, 4
"""D7: each may send evidence of 32 MiB, once; those that send are counted."""
MAX_USED = 50_000
"""Nonces remembered as used, so that a second answer is told apart from an unknown one; either way it is refused."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """A run reserved for a machine. `clock` and `log` are what was known of the machine when the nonce was given out: a
    quote over the nonce cannot be older, however late it comes after another one's."""

    nonce: bytes
    run: str
    machine: str
    role: str
    agreement: str
    clock: str
    log: int
    until: float


class Challenges:
    """One per run. `steady` gives seconds that never go back (N11)."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._runs: OrderedDict[str, Challenge] = OrderedDict()
        self._used: OrderedDict[bytes, None] = OrderedDict()

    def reserved(self, run: str) -> Challenge | None:
        """The run's challenge, if it still holds."""
        found = self._runs.get(run)
        return found if found and found.until > self._steady() else None

    def reserve(self, run: str, machine: str, role: str, agreement: str, clock: str, log: int) -> Challenge:
        """A new challenge; the machine's older one for this run is void. Raises `LimitReached` (run_reserved,
        rate_limited)."""
        held = self.reserved(run)
        if held and held.machine != machine:
            raise refuse(RUN_RESERVED, "another host has reserved the run")
        self._purge()
        if len(self._runs) >= MAX_CHALLENGES and run not in self._runs:
            raise refuse(RATE_LIMITED, "too many challenges are open")
        nonce = secrets.token_bytes(NONCE_SIZE)
        made = Challenge(nonce, run, machine, role, agreement, clock, log, self._steady() + CHALLENGE_TTL)
        self._runs.pop(run, None)
        self._runs[run] = made
        return made

    def take(self, nonce: bytes, run: str, machine: str) -> Challenge:
        """The challenge that `nonce` belongs to, which is thereby used up. Raises `EvidenceRefusal` (nonce_used,
        nonce_mismatch, nonce_expired)."""
        if nonce in self._used:
            raise refuse(NONCE_USED, "the nonce was answered before")
        found = self._runs.get(run)
        if found is None or found.machine != machine or not secrets.compare_digest(found.nonce, nonce):
            raise refuse(NONCE_MISMATCH, "no challenge with this nonce is open for this run and machine")
        del self._runs[run]
        self.use(nonce)
        if found.until <= self._steady():
            raise refuse(NONCE_EXPIRED, "the challenge was answered too late", expected=f"{CHALLENGE_TTL:.0f} s")
        return found

    def use(self, nonce: bytes) -> None:
        """Remember that a nonce was answered."""
        self._used[nonce] = None
        if len(self._used) > MAX_USED:
            self._used.popitem(last=False)

    def was_used(self, nonce: bytes) -> bool:
        return nonce in self._used

    def _purge(self) -> None:
        while self._runs:
            run, oldest = next(iter(self._runs.items()))
            # An hour longer than it holds, so that a late answer is told `nonce_expired` and not `nonce_mismatch`.
            if oldest.until + 3600 > self._steady() and len(self._runs) < MAX_CHALLENGES:
                return
            if oldest.until > self._steady():
                return
            del self._runs[run]


@dataclass(frozen=True, slots=True)
class Enrolment:
    """An enrolment begun: what the machine must answer, and what will be recorded."""

    operator: str
    name: str
    tls_key: str
    machine: str  # empty for a TEE's, which its answer tells
    simulated: bool
    ek: bytes
    ak: bytes
    key: str
    secret: bytes  # of a TPM's credential
    nonce: bytes  # for a TEE or a simulated machine
    enrolments: int  # of this machine when this one began
    until: float
    tpm: str = "{}"  # claims of the EK's certificate, canonical
    instance: str = ""  # of a cloud
    cleared: bool = False  # the operator says that the TPM was
    binder: bytes = b""  # TPM2B_PUBLIC of a binder key, certified


class Enrolments:
    """Begun enrolments by a random id. Any answer ends one."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._open: OrderedDict[str, Enrolment] = OrderedDict()

    def check_room(self, operator: str) -> None:
        """Raises `LimitReached` (rate_limited)."""
        while self._open and next(iter(self._open.values())).until <= self._steady():
            self._open.popitem(last=False)
        mine = sum(item.operator == operator for item in self._open.values())
        if len(self._open) >= MAX_ENROLMENTS or mine >= MAX_PER_OPERATOR:
            raise refuse(RATE_LIMITED, "too many enrolments are open")

    def begin(self, enrolment: Enrolment) -> str:
        self.check_room(enrolment.operator)
        name = secrets.token_hex(16)
        self._open[name] = enrolment
        return name

    def take(self, name: str, operator: str) -> Enrolment:
        """Raises `EvidenceRefusal` (enrolment_failed)."""
        found = self._open.get(name)
        if found is None or found.operator != operator:
            raise refuse(ENROLMENT_FAILED, "no enrolment of this operator is open under this name")
        del self._open[name]
        if found.until <= self._steady():
            raise refuse(ENROLMENT_FAILED, "the enrolment was answered too late", expected=f"{ENROLMENT_TTL:.0f} s")
        return found

    def __len__(self) -> int:
        return len(self._open)


@dataclass(frozen=True, slots=True)
class Handover:
    """A machine that asks for the root key: what it must answer, and what its evidence is judged against."""

    address: str
    nonce: bytes
    machine: Machine
    secret: bytes  # of a TPM's credential; empty for other machines
    until: float


class Handovers:
    """Attempts by a random id. An answer is let in once, before its body is read, and ends the attempt."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._open: OrderedDict[str, tuple[Handover, bool]] = OrderedDict()

    def check_room(self, address: str) -> None:
        """Raises `LimitReached` (rate_limited)."""
        while self._open and next(iter(self._open.values()))[0].until <= self._steady():
            self._open.popitem(last=False)
        mine = sum(item.address == address for item, _ in self._open.values())
        if len(self._open) >= MAX_HANDOVERS or mine >= MAX_PER_ADDRESS:
            raise refuse(RATE_LIMITED, "too many machines ask for the root key")

    def begin(self, item: Handover) -> str:
        self.check_room(item.address)
        name = secrets.token_hex(16)
        self._open[name] = (item, False)
        return name

    def let_in(self, name: str) -> bool:
        """Whether an answer to this one may be read: the first one, in time."""
        found = self._open.get(name)
        if found is None or found[1] or found[0].until <= self._steady():
            return False
        self._open[name] = (found[0], True)
        return True

    def take(self, name: str) -> Handover:
        """The attempt of an answer that was let in. Raises `EvidenceRefusal` (nonce_expired): it took too long."""
        found, _ = self._open.pop(name, (None, False))
        if found is None:
            raise refuse(NONCE_EXPIRED, "the answer came too late", expected=f"{HANDOVER_TTL:.0f} s")
        return found

    def __len__(self) -> int:
        return len(self._open)
