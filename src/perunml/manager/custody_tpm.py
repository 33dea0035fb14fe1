"""The root key in a TPM's keeping: it opens on this TPM, in the state of the machine in which the manager was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perunml.api.trust import Origin
from perunml.attesters.bound import BoundKey, new_key, secret
from perunml.attesters.esys import WrongState, WrongTpm
from perunml.manager.codes import CUSTODY_ELSEWHERE, CUSTODY_STATE
from perunml.manager.custody import ROOT_LABEL, Kept, kept_as, open_under, read_head, seal_under
from perunml.release.managers import NEEDED_PCRS
from perunml.wire.canonical import canonical
from perunml.wire.codes import MALFORMED
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import PerunError, refuse

DEFAULT_PCRS = (0, 1, 2, 3, 4, 5, 6, 7, 9, 11)
"""Firmware, its settings, boot loader, secure boot, initrd and command line, unified kernel image. Not 10, which grows with
each file loaded; not 8 and 12 to 15, which few systems extend."""
MAX_PCR = 23
_TEXT = canonical({"label": ROOT_LABEL, "custody": "tpm"})
_MEMBERS = {"private", "public", "parent", "pcrs"}


class TpmCustody:
    """The TPM at `tcti`. `pcrs` (of the SHA-256 bank) are for a new root key; one that is opened says its own."""

    def __init__(self, tcti: str, pcrs: Sequence[int] = DEFAULT_PCRS) -> None:
        self._tcti, self._pcrs = tcti, check_pcrs(pcrs)

    @property
    def kept(self) -> Kept:
        return Kept("tpm", self._pcrs)

    def seal(self, root: bytes, origin: Sequence[Origin] = (), *, counted: bool = False) -> bytes:
        """Raises `Unreachable` (tpm_unavailable)."""
        key = new_key(self._tcti, self._pcrs)
        head: dict[str, Any] = {"kind": "tpm", "pcrs": list(key.pcrs)}
        head |= {name: b64(getattr(key, name)) for name in ("private", "public", "parent")}
        return seal_under(self._secret(key), root, head, origin, counted)

    def open(self, data: bytes) -> tuple[bytes, Kept]:
        """Raises `IntegrityError` (custody_state: the machine is in another state; custody_elsewhere: another TPM, or one that
        was cleared; state_damaged), `Unreachable` (tpm_unavailable)."""
        document = read_head(data, "tpm", _MEMBERS)
        try:
            pcrs = check_pcrs(document["pcrs"])
            private, public, parent = (unb64(document[name]) for name in ("private", "public", "parent"))
        except (PerunError, TypeError):
            raise refuse(CUSTODY_ELSEWHERE, "root.json names no key of a TPM in a state") from None
        root = open_under(self._secret(BoundKey(private, public, parent, pcrs)), document, "TPM")
        return root, kept_as(document, "tpm", pcrs)

    def _secret(self, key: BoundKey) -> bytes:
        try:
            return secret(self._tcti, key, _TEXT)
        except WrongState:
            raise refuse(
                CUSTODY_STATE,
                "the TPM refuses the key: the machine is not in the state in which the manager was made",
                expected="the same values of PCRs " + ", ".join(map(str, key.pcrs)),
            ) from None
        except WrongTpm:
            raise refuse(
                CUSTODY_ELSEWHERE, "the key was made by another TPM, or before this one was cleared", seen=self._tcti
            ) from None

    def __repr__(self) -> str:
        return f"<TpmCustody {self._tcti}>"


def check_pcrs(pcrs: Any) -> tuple[int, ...]:
    """Indices in order, each once, with all that are needed. Raises `UsageError` (malformed)."""
    fits = all(type(one) is int and 0 <= one <= MAX_PCR for one in pcrs)
    if not fits or list(pcrs) != sorted(set(pcrs)) or not set(pcrs) >= NEEDED_PCRS:
        raise refuse(
            MALFORMED,
            "not a choice of PCRs to keep a root key by",
            expected=f"0 to {MAX_PCR} in order, with {', '.join(map(str, sorted(NEEDED_PCRS)))}",
            seen=str(list(pcrs)),
        )
    return tuple(pcrs)
