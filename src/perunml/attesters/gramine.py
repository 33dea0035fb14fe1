"""Quotes of an SGX enclave under Gramine, through its pseudo-files in `/dev/attestation` (Gramine: "Attestation and Secret
Provisioning", low-level interface).

There is one request for the whole process: what was written last is quoted.
"""

from __future__ import annotations

import threading

from perunml.attesters.codes import ODD_ANSWER, TEE_REFUSED, TEE_UNAVAILABLE
from perunml.attesters.tee import TeeKind
from perunml.attesters.tree import Files, Tree
from perunml.evidence.parts import MAX_QUOTE, SgxPart
from perunml.wire.errors import refuse

ATTESTATION = "/dev/attestation"
TYPE = f"{ATTESTATION}/attestation_type"
DCAP = "dcap"
"""The type that makes quotes which are judged here; others are ``none`` and the retired ``epid``."""
MAX_TYPE = 64
WAY = "perunml host doctor"
_ONE_AT_A_TIME = threading.Lock()


def attestation_type(tree: Tree) -> str:
    """What Gramine says it attests by; empty outside of it. Raises `OSError`."""
    return tree.read(TYPE, MAX_TYPE).decode("utf-8", "replace").strip() if tree.exists(TYPE) else ""


class Gramine:
    """A `TeeSource` over the pseudo-files of `tree`."""

    def __init__(self, tree: Tree | None = None) -> None:
        self._tree: Tree = tree or Files()
        try:
            told = attestation_type(self._tree)
        except OSError as exc:
            raise refuse(TEE_UNAVAILABLE, f"not told by Gramine: {exc.strerror}", seen=TYPE, command=WAY) from None
        if told != DCAP:
            raise refuse(TEE_UNAVAILABLE, "no enclave under Gramine that attests by DCAP", expected=DCAP, seen=told or "no /dev/attestation", command=WAY)  # fmt: skip

    @property
    def kind(self) -> TeeKind:
        return "sgx"

    def report(self, report_data: bytes) -> SgxPart:
        """A quote of this enclave over the 64 bytes."""
        with _ONE_AT_A_TIME:
            try:
                self._tree.write(f"{ATTESTATION}/user_report_data", report_data)
                quote = self._tree.read(f"{ATTESTATION}/quote", MAX_QUOTE)
            except OSError as exc:
                raise refuse(TEE_REFUSED, f"no quote: {exc.strerror}", seen=ATTESTATION, command=WAY) from None
        if not quote:
            raise refuse(ODD_ANSWER, "the enclave's quote is empty", seen=ATTESTATION)
        return SgxPart(quote)
