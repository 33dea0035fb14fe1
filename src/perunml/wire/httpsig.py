"""Signed requests: HTTP message signatures (RFC 9421) in one fixed shape.

Covered, always and in this order: ``@method``, ``@authority``, ``@path``, ``@query``, ``content-digest``; parameters, always and in
this order: created, expires, nonce, keyid, alg, tag. Any other shape is refused, so there is nothing to negotiate. The body is compared
with its digest here; the caller of `verify_request` stores nonces and refuses one that comes twice.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from perunml.wire.codes import REQUEST_STALE, REQUEST_UNSIGNED
from perunml.wire.encoding import b64
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey, Signer

TAG = "perunml-v1"
LIFETIME = 60
"""Seconds between created and expires of our own requests."""
MAX_LIFETIME = 300
MAX_SKEW = 30
"""Seconds by which the caller's clock may be ahead of ours."""
_COMPONENTS = '("@method" "@authority" "@path" "@query" "content-digest")'
_ALG = {"ed25519": "ed25519", "p384": "ecdsa-p384-sha384"}
_INPUT = re.compile(
    r"perunml=" + re.escape(_COMPONENTS) + r";created=(\d{1,12});expires=(\d{1,12});nonce=\"([A-Za-z0-9_-]{22})\";"
    r"keyid=\"((?:ed25519|p384):[A-Za-z0-9_-]{1,100})\";alg=\"([a-z0-9-]{1,32})\";tag=\"" + TAG + '"',
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What a valid signature proves: `key` asked for exactly this, between `created` and `expires`, once (`nonce`)."""

    key: PublicKey
    nonce: str
    created: int
    expires: int


def content_digest(body: bytes) -> str:
    """RFC 9530: ``sha-256=:<base64>:``."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def sign_request(method: str, url: str, body: bytes, signer: Signer, now: int) -> dict[str, str]:
    """The headers that make a request ours. `url` is absolute; `now` in seconds since the epoch."""
    digest = content_digest(body)
    key = signer.public
    params = (
        f'{_COMPONENTS};created={now};expires={now + LIFETIME};nonce="{b64(os.urandom(16))}";'
        f'keyid="{key.text}";alg="{_ALG[key.algorithm]}";tag="{TAG}"'
    )
    signature = signer.sign(_base(method, *_target(url), digest, params))
    return {
        "content-digest": digest,
        "signature-input": f"perunml={params}",
        "signature": f"perunml=:{base64.b64encode(signature).decode()}:",
    }


def verify_request(
    method: str, authority: str, path: str, query: str, headers: Mapping[str, str], body: bytes, now: int
) -> SignedRequest:
    """Who asked. `headers` has lower-case names, each once; `query` is without its question mark. Raises
    `AgreementRefusal` (request_unsigned, request_stale)."""
    found = _INPUT.fullmatch(headers.get("signature-input", ""))
    sig_header = headers.get("signature", "")
    if not found or not (sig_header.startswith("perunml=:") and sig_header.endswith(":")):
        raise refuse(REQUEST_UNSIGNED, "the request has no signature of the demanded shape")
    created, expires, nonce, key_text, alg = int(found[1]), int(found[2]), found[3], found[4], found[5]
    digest = headers.get("content-digest", "")
    if not hmac.compare_digest(digest.encode("utf-8", "replace"), content_digest(body).encode()):
        raise refuse(REQUEST_UNSIGNED, "content-digest is not the body's")
    try:
        key = PublicKey(key_text)
        if alg != _ALG[key.algorithm]:
            raise refuse(REQUEST_UNSIGNED, "the algorithm is not the key's", expected=_ALG[key.algorithm], seen=alg)
        params = headers["signature-input"].removeprefix("perunml=")
        signature = base64.b64decode(sig_header[9:-1], validate=True)
        key.verify(signature, _base(method, authority, path, query, digest, params))
    except (PerunError, binascii.Error, ValueError):
        raise refuse(REQUEST_UNSIGNED, "the request's signature does not verify", seen=key_text) from None
    if not (created - MAX_SKEW <= now < expires) or not 0 < expires - created <= MAX_LIFETIME:
        raise refuse(
            REQUEST_STALE, "the request is outside its time window", expected=f"{created} to {expires}", seen=str(now)
        )
    return SignedRequest(key, nonce, created, expires)


def _target(url: str) -> tuple[str, str, str]:
    # RFC 9421 section 2.2.3: a scheme's own port is left out, as HTTP clients leave it out of Host.
    parts = urlsplit(url)
    own = {"https": ":443", "http": ":80"}.get(parts.scheme, ":")
    return parts.netloc.rpartition("@")[2].lower().removesuffix(own), parts.path or "/", parts.query


def _base(method: str, authority: str, path: str, query: str, digest: str, params: str) -> bytes:
    # RFC 9421 section 2.5. A newline in a value, as in a path decoded too early, could pass for another component.
    lines = {
        "@method": method.upper(),
        "@authority": authority.lower(),
        "@path": path,
        "@query": f"?{query}",
        "content-digest": digest,
    }
    if any(c < " " for value in lines.values() for c in value):
        raise ValueError("control characters in a request's components")
    text = "".join(f'"{name}": {value}\n' for name, value in lines.items())
    return f'{text}"@signature-params": {params}'.encode()
