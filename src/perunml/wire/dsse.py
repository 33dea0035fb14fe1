"""DSSE envelopes (github.com/secure-systems-lab/dsse, protocol v1.0.2): signed bytes with their type.

Payloads are canonical JSON with ``kind`` and ``apiVersion`` inside; the envelope's payload type is
``application/vnd.perunml.<kind>+json``, and both must agree, so that no document can be read as another.
Signing can happen elsewhere: `signing_bytes` gives what is to be signed, `Envelope.with_signature` attaches it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from perunml.wire.canonical import MAX_DOCUMENT, canonical, check_values, load_canonical, load_json
from perunml.wire.codes import BAD_SIGNATURE, MALFORMED, WRONG_PAYLOAD_TYPE
from perunml.wire.digests import digest
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey, Signer

API_VERSION = "perunml/v1"
MAX_SIGNATURES = 64
"""A board of more keys than this does not sit round one table."""


def payload_type(kind: str) -> str:
    return f"application/vnd.perunml.{kind.lower()}+json"


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(payload_type), payload_type.encode("ascii"), len(payload), payload)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signed document. `signatures` pairs a key's text with a signature; none of it is believed before `verify`."""

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...] = ()

    @property
    def digest(self) -> str:
        """``sha256:`` of the payload: the document's name, whoever signed it."""
        return digest(self.payload)

    def signing_bytes(self) -> bytes:
        return pae(self.payload_type, self.payload)

    def with_signature(self, key: PublicKey, signature: bytes) -> Envelope:
        """With one more signature, made here or elsewhere; raises `IntegrityError` when it does not verify."""
        key.verify(signature, self.signing_bytes())
        kept = tuple(s for s in self.signatures if s[0] != key.text)
        return replace(self, signatures=(*kept, (key.text, signature)))

    def signed_by(self, signer: Signer) -> Envelope:
        """With the signature of a key that is in this process: one that does not verify would be found by the first who reads it, and looking here costs what signing does twice over."""
        return replace(self, signatures=(*self.signatures, (signer.public.text, signer.sign(self.signing_bytes()))))

    def verify(self, kind: str, keys: Iterable[PublicKey]) -> frozenset[PublicKey]:
        """The keys among `keys` that signed. Raises `IntegrityError`: the type is not `kind`'s, a signature that claims
        one of `keys` is bad, or none of `keys` signed. Signatures of unknown keys count for nothing."""
        if self.payload_type != payload_type(kind):
            raise refuse(
                WRONG_PAYLOAD_TYPE, "another type of document", expected=payload_type(kind), seen=self.payload_type
            )
        wanted = {key.text: key for key in keys}
        message = self.signing_bytes()
        found = set()
        for key_text, signature in self.signatures:
            if key := wanted.get(key_text):
                key.verify(signature, message)
                found.add(key)
        if not found:
            raise refuse(BAD_SIGNATURE, f"the {kind} is not signed by a key that may sign it")
        return frozenset(found)

    def open(self, kind: str, keys: Iterable[PublicKey], *, limit: int = MAX_DOCUMENT) -> dict[str, Any]:
        """The payload, after `verify`."""
        self.verify(kind, keys)
        return self.unverified(kind, limit=limit)

    def unverified(self, kind: str, *, limit: int = MAX_DOCUMENT) -> dict[str, Any]:
        """The payload as a JSON object, its signatures NOT checked: to learn whose keys to ask for. At most `limit` bytes
        are read."""
        value = load_canonical(self.payload, limit=limit)
        if not isinstance(value, dict) or value.get("apiVersion") != API_VERSION or value.get("kind") != kind:
            raise refuse(WRONG_PAYLOAD_TYPE, f"the document is not a {API_VERSION} {kind}")
        return value

    def as_json(self) -> dict[str, Any]:
        return {
            "payloadType": self.payload_type,
            "payload": b64(self.payload),
            "signatures": [{"keyid": key, "sig": b64(sig)} for key, sig in self.signatures],
        }

    def encode(self) -> bytes:
        return canonical(self.as_json())

    @classmethod
    def from_json(cls, data: Any) -> Envelope:
        """Raises `UsageError` (malformed): unknown or missing members, or one key twice."""
        try:
            if not isinstance(data, dict) or set(data) != {"payloadType", "payload", "signatures"}:
                raise TypeError
            signatures = tuple((s["keyid"], unb64(s["sig"])) for s in data["signatures"])
            if any(set(s) != {"keyid", "sig"} or not isinstance(s["keyid"], str) for s in data["signatures"]):
                raise TypeError
            if not isinstance(data["payloadType"], str):
                raise TypeError
            made = cls(data["payloadType"], unb64(data["payload"]), signatures)
        except (TypeError, KeyError, AttributeError):
            raise refuse(MALFORMED, "not a DSSE envelope") from None
        if len(signatures) > MAX_SIGNATURES or len({key for key, _ in signatures}) != len(signatures):
            raise refuse(MALFORMED, "too many signatures, or two of one key")
        if not made.payload_type.isascii():
            raise refuse(MALFORMED, "payload type is not ASCII")
        return made

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        return cls.from_json(load_json(data))


def unsigned(kind: str, body: dict[str, Any]) -> Envelope:
    """An envelope without signatures around {apiVersion, kind, **body}."""
    if clash := {"apiVersion", "kind"} & set(body):
        raise ValueError(f"{clash} is set by the envelope")
    check_values(body)  # what is signed must be readable again
    try:
        payload = canonical({"apiVersion": API_VERSION, "kind": kind, **body})
    except ValueError as exc:
        raise refuse(MALFORMED, f"the {kind} has no canonical form: {exc}") from None
    return Envelope(payload_type(kind), payload)


def signed(kind: str, body: dict[str, Any], signer: Signer) -> Envelope:
    """A signed envelope around {apiVersion, kind, **body}."""
    made = unsigned(kind, body)
    return made.with_signature(signer.public, signer.sign(made.signing_bytes()))
