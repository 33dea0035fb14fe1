"""PCR 7 for given Secure Boot keys: the variables that firmware measures, and the authority that vouched for the image.

TCG PC Client Platform Firmware Profile, 3.3.4.8 (PCR 7); UEFI 2.10, 32.4.1 (signature lists).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import pack

from perunml.client.codes import IMAGE_ODD
from perunml.wire.errors import refuse

GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
MAX_LISTS = 1 << 20
"""Bytes of a revocation list; vendors' have some 20 KiB."""


@dataclass(frozen=True, slots=True)
class SecureBootKeys:
    """What an owner put into the firmware. Certificates are DER.

    owner  the signatures' owner, as the keys were enrolled with
    db     those of which one vouches for the image; the first is the image's signer's
    dbx    the revocation list, whole, as the variable holds it; empty where the variable is not set
    """

    owner: uuid.UUID
    pk: bytes
    kek: tuple[bytes, ...]
    db: tuple[bytes, ...]
    dbx: bytes

    @classmethod
    def read(cls, folder: Path) -> SecureBootKeys:
        """From images/keys.sh's folder, or its public part beside an image: PK.crt, KEK*.crt, db*.crt (PEM), owner, and
        dbx.esl where the variable is set. Raises `UsageError` (image_odd)."""
        try:
            owner = uuid.UUID((folder / "owner").read_text().strip())
            dbx = (folder / "dbx.esl").read_bytes()[: MAX_LISTS + 1] if (folder / "dbx.esl").exists() else b""
            pk, kek, db = (tuple(_certificates(folder, name)) for name in ("PK", "KEK", "db"))
        except (OSError, ValueError) as exc:
            raise refuse(IMAGE_ODD, "the Secure Boot keys cannot be read", expected="owner, PK.crt, KEK*.crt, db*.crt", seen=f"{folder}: {exc}") from None  # fmt: skip
        if len(pk) != 1 or not kek or not db or len(dbx) > MAX_LISTS:
            raise refuse(IMAGE_ODD, "the Secure Boot keys are not whole", expected="one PK.crt, KEK*.crt, db*.crt", seen=str(folder))  # fmt: skip
        return cls(owner, pk[0], kek, db, dbx)

    def digests(self) -> Iterator[bytes]:
        """The digests of PCR 7's events, in their order, for an image that `db`'s first certificate vouches for."""
        yield _variable(GLOBAL, "SecureBoot", b"\x01")
        yield _variable(GLOBAL, "PK", self._list((self.pk,)))
        yield _variable(GLOBAL, "KEK", self._list(self.kek))
        yield _variable(IMAGE_SECURITY, "db", self._list(self.db))
        yield _variable(IMAGE_SECURITY, "dbx", self.dbx)
        yield hashlib.sha256(bytes(4)).digest()  # the separator
        yield _variable(IMAGE_SECURITY, "db", self.owner.bytes_le + self.db[0])

    def _list(self, certificates: tuple[bytes, ...]) -> bytes:
        """EFI_SIGNATURE_LISTs, one for each certificate, for they differ in size."""
        return b"".join(
            X509.bytes_le + pack("<III", 28 + 16 + len(one), 0, 16 + len(one)) + self.owner.bytes_le + one
            for one in certificates
        )


def _variable(guid: uuid.UUID, name: str, data: bytes) -> bytes:
    """The digest of a UEFI_VARIABLE_DATA."""
    text = name.encode("utf-16-le")
    return hashlib.sha256(guid.bytes_le + pack("<QQ", len(name), len(data)) + text + data).digest()


def _certificates(folder: Path, name: str) -> Iterator[bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    for path in sorted(folder.glob(f"{name}*.crt")):
        yield x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
