"""What a decision is made from, and what it is.

A `Release` and an `OutputRelease` are made by `decide` and `decide_output` only: their constructors want this module's token,
`dataclasses.replace` cannot make another one, and a test looks at who uses the mints. The key vault takes nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any, Literal

from perunml.agreements.conditions import Condition
from perunml.agreements.schema import Agreement
from perunml.wire.errors import PerunError, error
from perunml.wire.rules import Reason

_TOKEN = object()

Purpose = Literal["release", "renew", "finish"]
CHECKPOINT = "#checkpoint"
"""Under which a release and a receipt name what a run went on from; no asset can be called so."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a host wants keys for.

    agreement_digest  the agreement under which the run was requested
    job, run          the job's name and the run's id
    parameters        as requested
    assets            digests that the requester pinned, by asset name; may be empty
    purpose           ``release`` for the first keys or a resume, ``renew``, ``finish``
    binding           the 48 bytes that the evidence must be bound to; empty before a host is there (`decide_submission`)
    operator          text of the identity key that enrolled the host; empty before a host is there
    """

    agreement_digest: str
    job: str
    run: str
    parameters: Mapping[str, Any]
    assets: Mapping[str, str]
    purpose: Purpose = "release"
    binding: bytes = b""
    operator: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used up before this decision, read in the same transaction that will count it.

    runs           by training job's name: runs whose keys were released, without this one. A missing job is refused, it is
                   not zero; `Usage.none` gives zeros
    resumes        how often this very run was released before; 0 for its first release
    started        when the keys of this session were released (seconds since 1970); None before that. `wall` counts from it
    other_agreement_this_boot  digest of another agreement that this machine served since it booted, or None
    other_agreement_shares     that agreement's job says ``tenancy: shared``
    conditions     by a condition's digest: runs of its asset since it was added, without this one. A missing count of one that
                   counts is refused
    """

    runs: Mapping[str, int]
    resumes: int = 0
    started: int | None = None
    other_agreement_this_boot: str | None = None
    other_agreement_shares: bool = False
    conditions: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def none(cls, agreement: Agreement) -> Usage:
        """Nothing used yet."""
        return cls({name: 0 for name in agreement.jobs if agreement.training(name)})


@dataclass(frozen=True, slots=True)
class State:
    """What the signed changes amount to now.

    in_force   `agreements.approvals.standing` says so, and no newer version is in force
    missing    party -> what is missing, in words
    suspended  names of this agreement's assets that are suspended
    cosigned   the witness quorum's cosignatures cover what they must (DESIGN section 6, Release, 3 and 4)
    conditions owners' conditions in force, by asset name; an asset without any has no entry
    absent     the witnesses that are missing for that, in words, one by one
    """

    in_force: bool
    missing: Mapping[str, str]
    suspended: frozenset[str]
    cosigned: bool = False
    absent: tuple[str, ...] = ()
    conditions: Mapping[str, tuple[Condition, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InputGrant:
    """One sealed input that the host gets the key of.

    name    ``code``, ``model``, or the asset's name
    asset   the asset's name, or ``<job>.outputs.<name>`` (the newest finished run's registered output)
    digest  the agreed digest; empty for another job's output
    mount   where the job sees it
    """

    name: str
    asset: str
    digest: str
    mount: str


@dataclass(frozen=True, slots=True)
class OutputGrant:
    """One declared output: what it must be and who gets it. `max_size` in bytes."""

    name: str
    format: str
    max_size: int
    fields: tuple[str, ...]
    to: tuple[str, ...]
    approvers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """The agreement allows it: these inputs' and outputs' keys may go to the session key that the evidence vouches for.

    `parameters` are the effective ones, fixed values included. `lease_seconds` never reaches past `until` or `wall`;
    `wall_seconds` is what is left of `wall`, 0 for services (no limit).
    """

    agreement: Agreement
    run: Run
    parameters: Mapping[str, Any]
    inputs: tuple[InputGrant, ...]
    outputs: tuple[OutputGrant, ...]
    lease_seconds: int
    wall_seconds: int
    machine: str
    simulated: bool
    sentences: tuple[str, ...]
    token: InitVar[object]

    def __post_init__(self, token: object) -> None:
        _check(token)


@dataclass(frozen=True, slots=True)
class RegisteredOutput:
    """A finished run's output as the manager registered it; `asset` is its manifest's digest."""

    run: str
    job: str
    name: str
    asset: str


@dataclass(frozen=True, slots=True)
class OutputRelease:
    """The output's key may be sealed to `receive`, the recipient's receiving key."""

    agreement: Agreement
    output: RegisteredOutput
    recipient: str
    receive: str
    token: InitVar[object]

    def __post_init__(self, token: object) -> None:
        _check(token)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Refused, with every rule that failed (at least one)."""

    reasons: tuple[Reason, ...]

    def __post_init__(self) -> None:
        if not self.reasons:
            raise ValueError("a refusal has a reason")

    def error(self) -> PerunError:
        """The error to raise; the first reason decides its class."""
        return error(self.reasons)


def mint_release(**values: Any) -> Release:
    """For `decide` alone."""
    return Release(**values, token=_TOKEN)


def mint_output_release(**values: Any) -> OutputRelease:
    """For `outputs` alone."""
    return OutputRelease(**values, token=_TOKEN)


def _check(token: object) -> None:
    if token is not _TOKEN:
        raise TypeError("made by the decision only")
