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
from typing import Any

from perunml.evidence.policy import Policy
from perunml.wire.canonical import load_yaml
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import API_VERSION
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey

KIND = "ManagerProfile"
PROFILES = ("simulated", "measured", "tee", "gpu-cc")
MAX_ALTERNATIVES = 8


@dataclass(frozen=True, slots=True)
class ManagerProfile:
    """`key` is the identity demanded, or ""; `policies` are alternatives, any one of which will do."""

    key: str
    policies: tuple[Policy, ...]

    @classmethod
    def load(cls, data: bytes) -> ManagerProfile:
        """From YAML or JSON. Raises `UsageError` (malformed)."""
        value = load_yaml(data)
        if isinstance(value, dict) and value.get("kind") == "Agreement":
            from perunml.agreements.document import load_agreement

            load_agreement(data)  # the whole document must be good before a part of it counts
            part = value["manager"]
            return cls(str(part["key"]), _policies(part["profile"]))
        if not isinstance(value, dict) or value.get("apiVersion") != API_VERSION or value.get("kind") != KIND:
            raise refuse(MALFORMED, f"not a {API_VERSION} {KIND}", expected=f"kind: {KIND}, or kind: Agreement")
        _members(value, {"apiVersion", "kind", "profile"}, {"metadata", "key"})
        key = value.get("key", "")
        if key:
            PublicKey(key)
        return cls(key, _policies(value["profile"]))


def _policies(profile: Any) -> tuple[Policy, ...]:
    if isinstance(profile, dict) and set(profile) == {"any_of"}:
        found = profile["any_of"]
        if not isinstance(found, list) or not 1 <= len(found) <= MAX_ALTERNATIVES:
            raise refuse(MALFORMED, f"any_of is a list of 1 to {MAX_ALTERNATIVES} profiles")
        return tuple(_policy(item) for item in found)
    return (_policy(profile),)


def _policy(profile: Any) -> Policy:
    if not isinstance(profile, dict):
        raise refuse(MALFORMED, "a profile is an object", expected="{profile: simulated}")
    _members(profile, {"profile"}, {"imitates", "baseline", "machines"})
    name = profile["profile"]
    if name not in PROFILES:
        raise refuse(MALFORMED, "not a profile", expected=", ".join(PROFILES), seen=str(name))
    simulated = name == "simulated"
    return Policy(name, "tee" if simulated else "", None, allow_simulated=simulated)


def _members(value: dict[str, Any], needed: set[str], optional: set[str]) -> None:
    import difflib

    for key in value:
        if key not in needed | optional:
            near = difflib.get_close_matches(key, needed | optional, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise refuse(MALFORMED, f"unknown key {key!r}{hint}")
    for key in sorted(needed - set(value)):
        raise refuse(MALFORMED, f"the key {key!r} is missing")
