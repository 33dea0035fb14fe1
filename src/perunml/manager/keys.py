"""The manager's keys: one root key of 32 bytes, everything else by HKDF-SHA256 under a label (RFC 5869).

Who keeps the root key while the manager does not run is told in `custody`, and under the manager's evidence.
"""

from __future__ import annotations

import os
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from perunml.manager.codes import CUSTODY_BROKEN
from perunml.manager.custody import Kept
from perunml.wire.canonical import canonical
from perunml.wire.digests import digest
from perunml.wire.errors import refuse
from perunml.wire.hpke import HpkePrivateKey, HpkePublicKey
from perunml.wire.identity import SigningKey

ROOT_SIZE = 32
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_NONCE = 12
_BY_PASSPHRASE = Kept()


class Keys:
    """All keys of one manager. `repr` shows the identity only; nothing here is pickled or logged."""

    def __init__(self, root: bytes, kept: Kept = _BY_PASSPHRASE, intake: int = 1) -> None:
        if len(root) != ROOT_SIZE:
            raise ValueError("the root key has 32 bytes")
        self._root = bytes(root)
        self.kept = kept
        self.identity = SigningKey.from_secret(self._derive({"label": "perunml/manager-identity"}))
        self.generation = intake
        self.intake = self._intake(intake)
        self.machine = SigningKey.from_secret(self._derive({"label": "perunml/manager-machine"}))
        self.machine_id = "simulated:" + digest(self.machine.public.text.encode())
        self._custody = AESGCM(self._derive({"label": "perunml/manager-custody"}))

    def next_intake(self) -> Keys:
        """The same keys with the next intake key."""
        return Keys(self._root, self.kept, self.generation + 1)

    def was_intake(self, recipient: str) -> bool:
        """Whether this is the id of an intake key that was replaced."""
        return any(self._intake(before).public.id == recipient for before in range(1, self.generation))

    def _intake(self, generation: int) -> HpkePrivateKey:
        more = {"generation": generation} if generation > 1 else {}
        return HpkePrivateKey(self._derive({"label": "perunml/manager-intake", **more}, 96))

    def tls_key(self) -> ec.EllipticCurvePrivateKey:
        """The TLS server's P-256 key. 48 bytes reduced modulo the order are uniform to 2^-128 (FIPS 186-5, A.2.1)."""
        raw = int.from_bytes(self._derive({"label": "perunml/manager-tls"}, 48))
        return ec.derive_private_key(raw % (_P256_ORDER - 1) + 1, ec.SECP256R1())

    def host_ca(self) -> ed25519.Ed25519PrivateKey:
        """The key that signs hosts' client certificates."""
        return ed25519.Ed25519PrivateKey.from_private_bytes(self._derive({"label": "perunml/manager-host-ca"}))

    def output_key(self, run: str, output: str) -> bytes:
        """The data key of a run's output (docs/decisions/0005): 32 bytes."""
        return self._derive({"label": "perunml/output-key", "run": run, "output": output})

    def output_id(self, run: str, output: str) -> str:
        """The asset id of a run's output: 32 hex digits."""
        return self._derive({"label": "perunml/output-id", "run": run, "output": output}, 16).hex()

    def checkpoint_key(self, run: str) -> bytes:
        """The data key of a run's checkpoints: 32 bytes. Each blob has a key of its own under it."""
        return self._derive({"label": "perunml/checkpoint-key", "run": run})

    def checkpoint_id(self, run: str) -> str:
        """The asset id of a run's checkpoints: 32 hex digits."""
        return self._derive({"label": "perunml/checkpoint-id", "run": run}, 16).hex()

    def salt(self, index: int, entropy: bytes) -> bytes:
        """A ledger leaf's salt. `entropy` is fresh: one that came from the root key alone would repeat after a restored
        backup."""
        return self._derive({"label": "perunml/ledger-salt", "index": index, "entropy": entropy.hex()})

    def keep(self, secret: bytes | bytearray, what: dict[str, Any]) -> bytes:
        """`secret` as it is stored: AES-256-GCM with `what` (canonical) as additional data, so that a row that was
        swapped with another's does not open."""
        nonce = os.urandom(_NONCE)
        return nonce + self._custody.encrypt(nonce, bytes(secret), canonical(what))

    def take(self, kept: bytes, what: dict[str, Any]) -> bytes:
        """The secret again. Raises `IntegrityError` (custody_broken)."""
        try:
            return self._custody.decrypt(kept[:_NONCE], kept[_NONCE:], canonical(what))
        except (InvalidTag, ValueError):
            raise refuse(CUSTODY_BROKEN, "a stored key does not open as what it is stored for") from None

    def hand_over(self, key: HpkePublicKey, info: dict[str, Any]) -> bytes:
        """The root key, sealed to another manager's fresh key. For `handover` alone, after every agreement admitted that manager."""
        return key.seal(self._root, info)

    def _derive(self, info: dict[str, Any], length: int = 32) -> bytes:
        # The root key is uniform, so HKDF's extract step has nothing to do (RFC 5869 section 3.3).
        return HKDFExpand(hashes.SHA256(), length, canonical(info)).derive(self._root)

    def __repr__(self) -> str:
        return f"<Keys {self.identity.public.text}>"

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")
