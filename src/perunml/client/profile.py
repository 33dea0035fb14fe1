"""What a manager must prove, as the parties wrote it: a `ManagerProfile`, or the manager's part of an `Agreement`.

    apiVersion: perunml/v1
    kind: ManagerProfile
    metadata: {name: what-we-accept}
    key: ed25519:…                      # optional: the only identity that may answer
    profile: {profile: simulated}       # or {any_of: [{…}, {…}]}
    custody: [tee, tpm]                 # optional: who may keep its root key
    origins: {profile: …}               # optional: what managers proved that the key was handed through, where not `profile`

It comes from the parties' own document, never from the address that is to be trusted (DESIGN §6). A release publishes one
in a signed envelope (docs/measurements.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from perunml.agreements.document import load_agreement
from perunml.agreements.forms import Items, Part, SigningKeyText
from perunml.agreements.profiles import AnyOf, AnyProfile, HostRole, alternatives
from perunml.evidence.baseline import Baseline
from perunml.evidence.policy import Policy
from perunml.release.codes import BASELINE_MISSING
from perunml.release.policy import check_judged, policy_for
from perunml.wire.canonical import load_yaml
from perunml.wire.codes import BAD_SIGNATURE, MALFORMED
from perunml.wire.dsse import API_VERSION, Envelope, unsigned
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey, Signer

KIND = "ManagerProfile"
Custody = Literal["passphrase", "tpm", "tee"]


class _Document(Part):
    apiVersion: Literal["perunml/v1"]
    kind: Literal["ManagerProfile"]
    metadata: dict[str, Any] | None = None
    key: SigningKeyText | None = None
    profile: HostRole
    custody: Items[Custody] | None = None
    origins: HostRole | None = None


@dataclass(frozen=True, slots=True)
class ManagerProfile:
    """key  the identity demanded, or ""
    alternatives  what is written, any one of which will do, each with what evidence is judged by
    custody       who may keep the root key; None: what each profile implies (`client.appraise`)
    signers       the keys whose signatures the document bears, of those that were asked for
    origins       what each manager must have proved that had the root key before; None: one of `alternatives`
    """

    key: str
    alternatives: tuple[tuple[AnyProfile, Policy], ...]
    custody: frozenset[str] | None = None
    signers: frozenset[str] = frozenset()
    origins: tuple[AnyProfile, ...] | None = None

    @property
    def admitted_origins(self) -> tuple[AnyProfile, ...]:
        """One of these must have been met by each manager that had the root key before."""
        return tuple(written for written, _ in self.alternatives) if self.origins is None else self.origins

    @classmethod
    def load(cls, data: bytes, *, baselines: Sequence[Baseline] = (), signed_by: Sequence[str] = ()) -> ManagerProfile:
        """From YAML or JSON, or out of a signed envelope, which `signed_by` (keys' texts) demands: each of them must have
        signed. `baselines` are those that a `measured` profile names by digest.

        Raises `UsageError` (malformed), `IntegrityError` (bad_signature, wrong_payload_type), `EvidenceRefusal`
        (baseline_missing)."""
        value, signers = _read(data, [PublicKey(text) for text in signed_by])
        known = {baseline.digest: baseline for baseline in baselines}
        kind = value.get("kind") if isinstance(value, dict) else None
        if kind == "Agreement" and not signers:
            part = load_agreement(data).manager
            return cls(part.key, _judged(part.profile, known))
        found = _document(value)
        custody = frozenset(found.custody) if found.custody is not None else None
        origins = alternatives(found.origins) if found.origins is not None else None
        return cls(found.key or "", _judged(found.profile, known), custody, signers, origins)


def _document(value: Any) -> _Document:
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind != KIND:
        raise refuse(MALFORMED, f"not a {API_VERSION} {KIND}", expected=f"{KIND} or Agreement", seen=str(kind))
    try:
        return _Document.model_validate(value)
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"] if not str(part).startswith("<"))
        raise refuse(MALFORMED, f"{where or KIND}: {first['msg']}", seen=first["type"]) from None


def sign_profile(data: bytes, signer: Signer) -> Envelope:
    """A ManagerProfile in a signed envelope: `data` is the document, or an envelope that gets one more signature. Raises
    `UsageError` (malformed), `IntegrityError` (wrong_payload_type, bad_signature)."""
    if is_envelope(data):
        envelope = Envelope.decode(data)
        value = envelope.unverified(KIND)
        for text, _ in envelope.signatures:
            envelope.verify(KIND, [PublicKey(text)])  # no second name under a broken first
    else:
        value = load_yaml(data)
        _document(value)  # before it is taken apart
        envelope = unsigned(KIND, {name: part for name, part in value.items() if name not in ("apiVersion", "kind")})
    _document(value)
    return envelope.with_signature(signer.public, signer.sign(envelope.signing_bytes()))


def is_envelope(data: bytes) -> bool:
    """Whether this is a signed document, and not one that people write."""
    return data.lstrip()[:1] == b"{" and b'"payloadType"' in data


def _read(data: bytes, keys: Sequence[PublicKey]) -> tuple[Any, frozenset[str]]:
    """The document, and who of `keys` signed it: all of them. A signed one whose signers nobody asks for is refused: it
    would be believed as if somebody stood for it."""
    if not is_envelope(data):
        if keys:
            raise refuse(BAD_SIGNATURE, f"the {KIND} is not signed", expected=", ".join(key.text for key in keys))
        return load_yaml(data), frozenset()
    envelope = Envelope.decode(data)
    if not keys:
        raise refuse(
            MALFORMED,
            f"the {KIND} is signed, and nobody was named to have signed it",
            expected="--signed-by with the publisher's key, from the publisher",
            seen=", ".join(key for key, _ in envelope.signatures) or "no signature",
            command="perunml trust URL --profile FILE --signed-by KEY",
        )
    for key in keys:
        envelope.verify(KIND, [key])
    return envelope.unverified(KIND), frozenset(key.text for key in keys)


def _judged(role: AnyProfile | AnyOf, baselines: Mapping[str, Baseline]) -> tuple[tuple[AnyProfile, Policy], ...]:
    check_judged("the manager", role)
    written = alternatives(role)
    for profile in written:
        if profile.baseline_digest and profile.baseline_digest not in baselines:
            raise refuse(
                BASELINE_MISSING,
                "the baseline that the profile names was not given",
                expected=profile.baseline_digest,
                seen=", ".join(baselines) or "none",
                command="perunml trust URL --profile FILE --baseline FILE",
            )
    return tuple(zip(written, policy_for(role, baselines), strict=True))
