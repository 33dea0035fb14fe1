"""Quotes of a TPM's attestation key, with the logs that explain the values that they sign."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from perunml.attesters.codes import EVENT_LOG_UNREADABLE, IMA_LOG_UNREADABLE, TPM_BUSY
from perunml.attesters.esys import Tpm, open_tpm
from perunml.evidence.binding import tpm_extra_data
from perunml.evidence.bundle import Bundle, TpmPart
from perunml.evidence.codes import WEAK_BANK
from perunml.evidence.fields import MAX_CMDLINE, MAX_EVENT_LOG
from perunml.evidence.ima.parse import parse_log
from perunml.evidence.ima.replay import prefix_values
from perunml.evidence.tpm.attest import Attest, parse_attest
from perunml.wire.errors import refuse

KERNEL_IMA_LOG = Path("/sys/kernel/security/ima/binary_runtime_measurements")
KERNEL_EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
KERNEL_CMDLINE = Path("/proc/cmdline")
BANKS = ("sha256", "sha384")
"""Banks quoted, each where the TPM has it allocated."""
QUOTED = tuple(range(15))
"""PCRs quoted: firmware to shim (0 to 14); 15 and above belong to others or can be reset."""
IMA_PCR = 10
ATTEMPTS = 5
"""Times to read and quote again when a PCR other than IMA's changed in between."""


class Quoter:
    """Quotes by the key at the persistent handle `ak`, with what is new in the IMA log. Thread-safe.

    tcti                         how the TPM is reached
    ima_log, event_log, cmdline  files, the kernel's by default; with an `ima_log` given and no `event_log`, no boot log is sent
    quoted                       PCRs
    """

    def __init__(
        self,
        tcti: str,
        ak: int,
        ima_log: Path | None = None,
        event_log: Path | None = None,
        cmdline: Path | None = None,
        quoted: Sequence[int] = QUOTED,
    ) -> None:
        self._tcti, self._ak, self._quoted = tcti, ak, tuple(quoted)
        self._ima_log = ima_log or KERNEL_IMA_LOG
        if event_log is None and ima_log is None and KERNEL_EVENT_LOG.exists():
            event_log = KERNEL_EVENT_LOG
        self._event_log = event_log
        self._cmdline = cmdline or (KERNEL_CMDLINE if event_log == KERNEL_EVENT_LOG else None)
        self._lock = threading.Lock()
        self._accepted: tuple[tuple[int, int], int] | None = None  # boot, bytes of the log
        self._banks: tuple[str, ...] = ()

    def find_banks(self, tpm: Tpm) -> None:
        """See which strong banks the TPM has; once, before quoting. Raises `EvidenceRefusal` (weak_bank)."""
        self._banks = tuple(bank for bank in BANKS if tpm.read_pcrs(bank, [0]))
        if not self._banks:
            raise refuse(WEAK_BANK, "the TPM has no strong PCR bank allocated", expected=" or ".join(BANKS))

    def parts(self, bindings: Sequence[bytes]) -> Mapping[bytes, TpmPart]:
        """One quote bound to all `bindings`, for each the part that tells which the others are."""
        with self._lock:
            attest, signature, values, log = self._quote(tpm_extra_data(*bindings))
            clock = parse_attest(attest).clock
            boot, offset = (clock.reset, clock.restart), 0
            if self._accepted is not None and self._accepted[0] == boot and self._accepted[1] <= len(log):
                offset = self._accepted[1]
        event_log, cmdline = self._boot_log()
        part = TpmPart(attest, signature, values, log[offset:], offset, event_log, cmdline=cmdline)
        return {own: replace(part, others=tuple(sorted({*bindings} - {own}))) for own in bindings}

    def accepted(self, bundle: Bundle) -> None:
        """The judge keeps the log up to here: later bundles of this boot leave it out."""
        for part in bundle.parts:
            if isinstance(part, TpmPart):
                clock = parse_attest(part.attest).clock
                with self._lock:
                    self._accepted = ((clock.reset, clock.restart), part.ima_offset + len(part.ima_log))

    def forget(self) -> None:
        """Send the whole log next time: the judge did not know the part before."""
        with self._lock:
            self._accepted = None

    def _quote(self, extra_data: bytes) -> tuple[bytes, bytes, dict[str, dict[int, bytes]], bytes]:
        """(TPMS_ATTEST, TPMT_SIGNATURE, the values that it digests, the IMA log read after it)."""
        selected = dict.fromkeys(self._banks, self._quoted)
        with open_tpm(self._tcti) as tpm:
            for _ in range(ATTEMPTS):
                values = {bank: tpm.read_pcrs(bank, self._quoted) for bank in self._banks}
                attest, signature = tpm.quote(self._ak, selected, extra_data)
                # after the quote, so that the log holds at least the lines that the quoted PCR 10 proves
                log = self._read_log()
                if (found := _quoted_values(parse_attest(attest), values, log)) is not None:
                    return attest, signature, found, log
        raise refuse(TPM_BUSY, f"PCRs changed {ATTEMPTS} times while they were quoted")

    def _read_log(self) -> bytes:
        try:
            return self._ima_log.read_bytes()
        except OSError as exc:
            raise refuse(IMA_LOG_UNREADABLE, f"no IMA log: {exc.strerror}", seen=str(self._ima_log)) from None

    def _boot_log(self) -> tuple[bytes, str]:
        """The boot log and the kernel's command line. Whether they are needed is for the judge to say; what was asked for
        and cannot be read is refused here."""
        found = []
        for path, limit in ((self._event_log, MAX_EVENT_LOG), (self._cmdline, MAX_CMDLINE)):
            try:
                data = path.read_bytes() if path is not None else b""
            except OSError as exc:
                raise refuse(EVENT_LOG_UNREADABLE, f"no boot log: {exc.strerror}", seen=str(path)) from None
            if len(data) > limit:
                raise refuse(EVENT_LOG_UNREADABLE, "too long", expected=f"{limit} bytes", seen=f"{len(data)}: {path}")
            found.append(data)
        return found[0], found[1].decode("utf-8", "replace").removesuffix("\n")


def _quoted_values(
    signed: Attest, values: dict[str, dict[int, bytes]], log: bytes
) -> dict[str, dict[int, bytes]] | None:
    """The values that the quote digests: those read just before it or, where files were loaded meanwhile, with PCR 10 as
    some prefix of the log gives it (a real TPM takes 0.2 s for a quote, a starting program loads hundreds of files)."""

    def fits(told: dict[str, dict[int, bytes]]) -> bool:
        signed_values = b"".join(told[bank][i] for bank, indices in signed.selection for i in indices)
        return hashlib.sha256(signed_values).digest() == signed.pcr_digest

    if fits(values):
        return values
    lines, _ = parse_log(log)
    prefixes = zip(*(prefix_values(lines, bank) for bank in values), strict=True)
    for pcr10 in reversed(list(prefixes)):
        told = {bank: {**values[bank], IMA_PCR: value} for bank, value in zip(values, pcr10, strict=True)}
        if fits(told):
            return told
    return None
