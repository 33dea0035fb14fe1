"""The agreement: one document that says which assets may be combined, how, where, and who gets what (DESIGN section 5).

`Agreement` is made by `document.load_agreement` and its neighbours only: they hand in the canonical bytes of the document
as written, and check that its parts fit together.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PrivateAttr, Strict, Tag, model_validator
from pydantic_core import PydanticCustomError

from perunml.agreements.boards import Board
from perunml.agreements.forms import (
    MAX_NAMES,
    Digest,
    EntryPath,
    Filled,
    Name,
    Part,
    ReceivingKeyText,
    SigningKeyText,
    Table,
    Unique,
)
from perunml.agreements.jobs import AnyJob, Job, TrainingJob
from perunml.agreements.profiles import AnyOf, AnyProfile, HostRole
from perunml.wire.digests import digest


class Metadata(Part):
    name: Name
    version: Annotated[int, Field(ge=1, le=10**6)] = 1
    predecessor: Digest | None = None

    @model_validator(mode="after")
    def _line(self) -> Metadata:
        if (self.version == 1) != (self.predecessor is None):
            raise PydanticCustomError("malformed", "version 1 has no predecessor, every later one names its digest")
        return self


class ManagerPart(Part):
    """The one manager, and what it must prove."""

    key: SigningKeyText
    profile: HostRole


class Quorum(Part):
    """Witnesses who must have cosigned the ledger before a key is released: parties, each by any of its Ed25519 keys or by the
    one that `keys` names, and stand-alone witnesses, which `keys` names."""

    at_least: Annotated[int, Field(ge=1)]
    of: Unique[Name]
    keys: Table[Name, SigningKeyText] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _can_be_met(self) -> Quorum:
        if self.at_least > len(self.of):
            raise PydanticCustomError(
                "malformed", "at_least {k} of {n} can never be met", {"k": self.at_least, "n": len(self.of)}
            )
        return self


class Waived(Part):
    """No witnesses; only where every host is simulated."""

    waived_because_simulated: Literal[True]


def _witnesses(value: Any) -> str:
    if isinstance(value, dict):
        return "<waived>" if "waived_because_simulated" in value else "<quorum>"
    return "<waived>" if isinstance(value, Waived) else "<quorum>"


Witnesses = Annotated[
    Annotated[Quorum, Tag("<quorum>")] | Annotated[Waived, Tag("<waived>")], Discriminator(_witnesses)
]


class Recovery(Part):
    """What outlives a manager. An output's key is split among the owners of what flowed into it: `at_least` of their shares give it again,
    all of them unless told. `managers` are identities of lost managers whose outputs this agreement's manager may take over."""

    at_least: Annotated[int, Field(ge=1)] | None = None
    managers: Annotated[tuple[SigningKeyText, ...], Strict(False), Field(max_length=MAX_NAMES)] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Recovery:
        if self.at_least is None and not self.managers:
            raise PydanticCustomError("malformed", "recovery says `at_least` or `managers`, or is left out")
        return self


class Party(Part):
    """An organisation or person: `keys` by name, the key that receives sealed things, and who decides."""

    keys: Filled[Name, SigningKeyText]
    receive: ReceivingKeyText | None = None
    approve: Board | None = None

    @property
    def board(self) -> Any:
        """Who decides: `approve`, or the only key (several keys without `approve` are refused when read)."""
        return self.approve if self.approve is not None else next(iter(self.keys))

    @model_validator(mode="after")
    def _decides(self) -> Party:
        if self.approve is None and len(self.keys) > 1:
            raise PydanticCustomError("malformed", "a party with several keys says in `approve` who decides")
        return self


class Asset(Part):
    """Something sealed; `digest` is its signed manifest's."""

    kind: Literal["dataset", "code", "model"]
    owner: Name
    digest: Digest
    entry: EntryPath | None = None

    @model_validator(mode="after")
    def _entry_of_code(self) -> Asset:
        if (self.kind == "code") != (self.entry is not None):
            raise PydanticCustomError("malformed", "code has an entry (the file that is run), other assets have none")
        return self


@dataclass(frozen=True, slots=True)
class Source:
    """The document as written, in RFC 8785 form: what `Agreement`'s digest is over."""

    payload: bytes


class Agreement(Part):
    """A checked agreement. Never changes; two are equal when their documents are."""

    apiVersion: Literal["perunml/v1"]
    kind: Literal["Agreement"]
    metadata: Metadata
    manager: ManagerPart
    witnesses: Witnesses
    parties: Filled[Name, Party]
    assets: Filled[Name, Asset]
    hosts: Filled[Name, HostRole]
    jobs: Filled[Name, Job]
    recovery: Recovery | None = None

    _payload: bytes = PrivateAttr()
    _digest: str = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        if not isinstance(context, Source):
            raise TypeError("an Agreement is made by agreements.document only")
        self._payload = context.payload
        self._digest = digest(context.payload)

    @functools.cached_property  # asked for many times in each decision, and pydantic looks up private attributes slowly
    def digest(self) -> str:
        """``sha256:`` of the document as written: the agreement's name."""
        return self._digest

    @property
    def payload(self) -> bytes:
        """The document as written, in RFC 8785 form."""
        return self._payload

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def ends(self) -> int:
        """The latest `until` of any job, seconds since 1970: after it nothing happens under this agreement."""
        return max(job.limits.until for job in self.jobs.values())

    @property
    def needs_quorum(self) -> bool:
        return isinstance(self.witnesses, Quorum)

    @property
    def witness_keys(self) -> dict[str, frozenset[str]]:
        """Of each witness by name the keys (texts), any one of which cosigns for it; empty where witnesses are waived."""
        if not isinstance(self.witnesses, Quorum):
            return {}
        named = self.witnesses.keys
        return {
            name: frozenset([named[name]] if name in named else _cosigning(self.parties[name]))
            for name in self.witnesses.of
        }

    def role(self, job: str) -> AnyProfile | AnyOf:
        """What a host of `job` must prove."""
        return self.hosts[self.jobs[job].hosts]

    def job_json(self, job: str) -> dict[str, Any]:
        """A job as the document writes it."""
        found: dict[str, Any] = json.loads(self._payload)["jobs"][job]
        return found

    def party_of(self, key: str) -> str | None:
        """The party to which a signing key belongs (a key stands once in an agreement), or None."""
        for name, party in self.parties.items():
            if key in party.keys.values():
                return name
        return None

    def training(self, job: str) -> TrainingJob | None:
        found = self.jobs.get(job)
        return found if isinstance(found, TrainingJob) else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Agreement) and other._digest == self._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"<Agreement {self.metadata.name} v{self.metadata.version} {self._digest}>"


def _cosigning(party: Party) -> Iterator[str]:
    """The keys that can cosign: C2SP cosignatures (v1) are Ed25519's."""
    return (key for key in party.keys.values() if key.startswith("ed25519:"))


__all__ = ["Agreement", "AnyJob", "Asset", "ManagerPart", "Metadata", "Party", "Quorum", "Recovery", "Source", "Waived"]
