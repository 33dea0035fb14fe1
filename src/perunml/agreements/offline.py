"""Signing elsewhere: the bytes that an HSM or an offline machine signs, and the signature brought back.

What is signed is DSSE's pre-authentication encoding of the document (`Envelope.signing_bytes`). Ed25519 signs it as it is;
P-384 with SHA-384, raw r || s of 96 bytes, or the DER form that most tools write, which is turned into the raw one.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from perunml.agreements.codes import SIGNATURE_FORM
from perunml.wire.dsse import Envelope
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey

ED25519_SIZE, P384_SIZE = 64, 96
"""Bytes of a signature (RFC 8032; RFC 9421, section 3.3.5)."""
P384_WIDTH = 48


def attach(envelope: Envelope, key: PublicKey, signature: bytes) -> Envelope:
    """The envelope with a signature that was made elsewhere. Raises `UsageError` (signature_form), `IntegrityError`
    (bad_signature): not this key's, or of other bytes."""
    return envelope.with_signature(key, raw_signature(key, signature))


def raw_signature(key: PublicKey, signature: bytes) -> bytes:
    """A signature in the one form that documents have. Raises `UsageError` (signature_form)."""
    size = ED25519_SIZE if key.algorithm == "ed25519" else P384_SIZE
    if len(signature) == size:
        return signature
    if key.algorithm == "p384" and signature[:1] == b"\x30":
        try:
            r, s = decode_dss_signature(signature)
            # DER has one encoding of each pair; what decodes from another one is not taken.
            if encode_dss_signature(r, s) == signature:
                return r.to_bytes(P384_WIDTH) + s.to_bytes(P384_WIDTH)
        except (ValueError, OverflowError):
            pass
    raise refuse(
        SIGNATURE_FORM,
        f"not a signature of a {key.algorithm} key",
        expected=f"{size} bytes" + (", or DER" if key.algorithm == "p384" else ""),
        seen=f"{len(signature)} bytes",
    )
