"""Secrets at rest under a passphrase: scrypt (RFC 7914) and AES-256-GCM in one small JSON file.

For identities and a development manager's root key. The label is authenticated, so an identity's file cannot pass for a
manager's. N=2^17, r=8, p=1 takes 128 MiB and about a third of a second, the value RFC 7914's authors' successors and age
settle near (age uses 2^18).
"""

from __future__ import annotations

import os
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from perunml.wire.canonical import canonical, load_json
from perunml.wire.codes import MALFORMED, UNSEAL_FAILED
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import refuse

LOG_N = 17
MAX_LOG_N = 20
"""1 GiB: a file that asks for more memory than this is refused."""


def seal_with_passphrase(secret: bytes, passphrase: bytes, label: str) -> bytes:
    """A JSON document that holds `secret`. An empty passphrase raises `ValueError`."""
    if not passphrase:
        raise ValueError("empty passphrase")
    salt, nonce = os.urandom(16), os.urandom(12)
    head = {"format": "perunml/passphrase-v1", "label": label, "log_n": LOG_N, "salt": b64(salt), "nonce": b64(nonce)}
    sealed = AESGCM(_key(passphrase, salt, LOG_N)).encrypt(nonce, secret, canonical(head))
    return canonical({**head, "sealed": b64(sealed)})


def open_with_passphrase(data: bytes, passphrase: bytes, label: str) -> bytes:
    """The secret. Raises `UsageError` (malformed) or `IntegrityError` (unseal_failed)."""
    doc: Any = load_json(data)
    if not isinstance(doc, dict) or set(doc) != {"format", "label", "log_n", "salt", "nonce", "sealed"}:
        raise refuse(MALFORMED, "not a file sealed under a passphrase")
    log_n = doc["log_n"]
    if doc["format"] != "perunml/passphrase-v1" or type(log_n) is not int or not 10 <= log_n <= MAX_LOG_N:
        raise refuse(MALFORMED, "not a file sealed under a passphrase that this version reads")
    if doc["label"] != label:
        raise refuse(MALFORMED, "the file holds another kind of secret", expected=label, seen=str(doc["label"]))
    head = {name: doc[name] for name in ("format", "label", "log_n", "salt", "nonce")}
    key = _key(passphrase, unb64(doc["salt"], size=16), log_n)
    try:
        return AESGCM(key).decrypt(unb64(doc["nonce"], size=12), unb64(doc["sealed"]), canonical(head))
    except InvalidTag:
        raise refuse(UNSEAL_FAILED, "wrong passphrase, or the file was altered") from None


def _key(passphrase: bytes, salt: bytes, log_n: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=2**log_n, r=8, p=1).derive(passphrase)
