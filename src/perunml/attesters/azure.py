"""Azure's confidential VMs: a paravisor keeps the TEE to itself and a virtual TPM for the guest. The TPM's quote binds the
exchange; a blob in the TPM (HCL) holds the TEE's report over the key that signs such quotes.

Azure, "Azure Confidential VMs guest attestation design": the attestation key at 0x81000003, the report at NV index 0x01400001.
A TD report is not signed; Azure's own service turns it into Intel's quote, at an address that only the guest itself reaches, and
hands out AMD's certificates there. Nothing it says is believed.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from perunml.attesters.codes import ODD_ANSWER, TEE_REFUSED, TEE_UNAVAILABLE
from perunml.attesters.esys import open_tpm
from perunml.attesters.quoting import QUOTED, Quoter
from perunml.evidence import pem
from perunml.evidence.bundle import Bundle
from perunml.evidence.clouds.azure import parse_hcl
from perunml.evidence.parts import MAX_CERTIFICATES, MAX_QUOTE, HclPart
from perunml.wire.encoding import b64
from perunml.wire.errors import PerunError, refuse

AK_HANDLE, REPORT_INDEX = 0x81000003, 0x01400001
SERVICE = "http://169.254.169.254"
"""Link-local: the platform's own, for this guest alone."""
QUOTES, CERTIFICATES = "/acc/tdquote", "/metadata/THIM/amd/certification"
TIMEOUT = 10.0
"""Seconds."""
MAX_ANSWER = 64 * 1024
"""Bytes: a quote in base64 has some 10,000, three certificates some 6,000."""
WAY = "perunml host doctor"

Ask = Callable[[str, dict[str, str] | None], bytes]
"""(path, what is posted or None) -> the service's answer. Raises `OSError`."""


def ask_service(path: str, body: dict[str, str] | None) -> bytes:
    """Ask the platform's service, past any proxy. Raises `OSError`."""
    import httpx

    try:
        with (
            httpx.Client(timeout=TIMEOUT, trust_env=False, headers={"Metadata": "true"}) as client,
            client.stream("GET" if body is None else "POST", SERVICE + path, json=body) as answer,
        ):
            found = b""
            for chunk in answer.iter_bytes():
                found += chunk
                if len(found) > MAX_ANSWER:
                    raise OSError("the answer is too long")
    except httpx.HTTPError as exc:
        raise OSError(str(exc)) from None
    if answer.status_code != httpx.codes.OK:
        raise OSError(f"status {answer.status_code}")
    return found


class AzureAttester:
    """A machine of Azure's in a TEE, as an `Attester`. It enrols as the TEE that it is, and is named by a manager.

    tcti                                 how the virtual TPM is reached
    ima_log, event_log, cmdline, quoted  as `Quoter` takes them
    ask                                  asks the platform's service
    """

    def __init__(
        self,
        tcti: str,
        ima_log: Path | None = None,
        event_log: Path | None = None,
        cmdline: Path | None = None,
        quoted: Sequence[int] = QUOTED,
        ask: Ask = ask_service,
    ) -> None:
        self._tcti, self._ask = tcti, ask
        self._quoter = Quoter(tcti, AK_HANDLE, ima_log, event_log, cmdline, quoted)
        self._known: HclPart | None = None
        with open_tpm(tcti) as tpm:
            if not (tpm.has(AK_HANDLE) and tpm.has(REPORT_INDEX)):
                raise refuse(TEE_UNAVAILABLE, "the TPM holds no report of Azure's paravisor", expected=f"{AK_HANDLE:#x} and {REPORT_INDEX:#x}", command=WAY)  # fmt: skip
            self._ak = tpm.read_public(AK_HANDLE)
            self._quoter.find_banks(tpm)

    @property
    def machine(self) -> str:
        return ""

    def enrolment(self) -> dict[str, bool]:
        """Nothing but that it is a TEE."""
        return {"tee": True}

    def collect(self, binding: bytes) -> Bundle:
        """A fresh quote of the virtual TPM, and the report that vouches for its key."""
        return self.collect_many([binding])[binding]

    def collect_many(self, bindings: Sequence[bytes]) -> Mapping[bytes, Bundle]:
        """One quote bound to all `bindings`; the report is the same for each, for it is bound to the key."""
        report = self._report()
        found = self._quoter.parts(bindings)
        return {own: Bundle((replace(part, ak=self._ak), report)) for own, part in found.items()}

    def accepted(self, bundle: Bundle) -> None:
        """The judge keeps the log up to here: later bundles of this boot leave it out."""
        self._quoter.accepted(bundle)

    def forget(self) -> None:
        """Send the whole log next time."""
        self._quoter.forget()

    def _report(self) -> HclPart:
        """The blob with what it is verified by, asked for once for each blob."""
        with open_tpm(self._tcti) as tpm:
            blob = tpm.nv_read(REPORT_INDEX)
        known = self._known
        if known is None or known.report != blob:
            hcl = parse_hcl(blob)
            tdx = hcl.kind == "tdx"
            known = HclPart(blob, () if tdx else self._certificates(), self._quote(hcl.report) if tdx else b"")
            self._known = known
        return known

    def _quote(self, report: bytes) -> bytes:
        try:
            told = _members(self._ask(QUOTES, {"report": b64(report)}))
            text = told.get("quote")
            quote = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) if isinstance(text, str) else b""
        except OSError as exc:
            raise refuse(TEE_REFUSED, f"Azure makes no quote of the TD report: {exc}", seen=SERVICE + QUOTES, command=WAY) from None  # fmt: skip
        except (binascii.Error, ValueError):
            quote = b""
        if not 0 < len(quote) <= MAX_QUOTE:
            raise refuse(ODD_ANSWER, "Azure's answer holds no quote", seen=SERVICE + QUOTES)
        return quote

    def _certificates(self) -> tuple[bytes, ...]:
        """AMD's, the leaf first; none where the service does not answer, for a manager has them from its collateral."""
        try:
            told = _members(self._ask(CERTIFICATES, None))
            texts = [told.get("vcekCert", ""), told.get("certificateChain", "")]
            found = [
                der for text in texts if isinstance(text, str) for der in pem.blocks(text.encode(), pem.CERTIFICATE)
            ]
        except (OSError, PerunError, ValueError):
            return ()
        return tuple(found[:MAX_CERTIFICATES])


def _members(answer: bytes) -> dict[str, Any]:
    """Raises `ValueError` for what is no JSON object."""
    told = json.loads(answer)
    if not isinstance(told, dict):
        raise ValueError("not an object")
    return told
