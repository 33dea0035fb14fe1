"""What a manager must prove, as the parties wrote it: a `ManagerProfile`, or the manager's part of an `Agreement`.

    apiVersion: perunml/v1
    kind: ManagerProfile
    metadata: {name: what-we-accept}
    key: ed25519:…                      # optional: the only identity that may answer
    profile: {profile: simulated}       # or {any_of: [{…}, {…}]}

It comes from the parties' own document, never from the address that is to be trusted (DESIGN §6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from perunml.agreements.document import load_agreement
from perunml.agreements.forms import Part, SigningKeyText
from perunml.agreements.profiles import AnyOf, AnyProfile, HostRole, alternatives
from perunml.evidence.policy import Policy
from perunml.wire.canonical import load_yaml
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import API_VERSION
from perunml.wire.errors import refuse

KIND = "ManagerProfile"


class _Document(Part):
    apiVersion: Literal["perunml/v1"]
    kind: Literal["ManagerProfile"]
    metadata: dict[str, Any] | None = None
    key: SigningKeyText | None = None
    profile: HostRole


@dataclass(frozen=True, slots=True)
class ManagerProfile:
    """`key` is the identity demanded, or ""; `policies` are alternatives, any one of which will do."""

    key: str
    policies: tuple[Policy, ...]

    @classmethod
    def load(cls, data: bytes) -> ManagerProfile:
        """From YAML or JSON. Raises `UsageError` (malformed)."""
        value = load_yaml(data)
        kind = value.get("kind") if isinstance(value, dict) else None
        if kind == "Agreement":
            part = load_agreement(data).manager
            return cls(part.key, _policies(part.profile))
        if kind != KIND:
            raise refuse(MALFORMED, f"not a {API_VERSION} {KIND}", expected=f"{KIND} or Agreement", seen=str(kind))
        try:
            found = _Document.model_validate(value)
        except ValidationError as exc:
            first = exc.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"] if not str(part).startswith("<"))
            raise refuse(MALFORMED, f"{where or KIND}: {first['msg']}", seen=first["type"]) from None
        return cls(found.key or "", _policies(found.profile))


def _policies(role: AnyProfile | AnyOf) -> tuple[Policy, ...]:
    return tuple(_policy(profile) for profile in alternatives(role))


def _policy(profile: AnyProfile) -> Policy:
    # A measured manager needs a baseline document, which a profile names by digest only: such evidence is refused here.
    return Policy(profile.profile, profile.imitated, None, allow_simulated=profile.profile == "simulated")
