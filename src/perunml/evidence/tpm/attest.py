"""Parses TPMS_ATTEST of a quote (TPM 2.0 Library part 2, 10.12.8 and 10.12.1). Total, bounded, no trailing bytes."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from perunml.evidence.codes import NOT_TPM_GENERATED, PCR_SELECTION, WRONG_ATTEST_TYPE
from perunml.evidence.tpm.algorithms import HASHES
from perunml.evidence.tpm.reader import Reader
from perunml.wire.errors import refuse

TPM_GENERATED = 0xFF544347
ST_ATTEST_QUOTE = 0x8018
MAX_NAME = 66
"""Bytes of a TPM2B_NAME: an algorithm and a SHA-512 digest."""
MAX_DIGEST = 64
MAX_BANKS = 4
"""Banks that one quote selects; no TPM has more than five allocated."""
SELECT_SIZE = 3
"""Bytes of a PCR bitmap: 24 PCRs (PC Client Platform TPM Profile)."""
_HEAD, _CLOCK_AND_FIRMWARE, _BANK = Struct(">IH"), Struct(">QIIBQ"), Struct(">HB")
_INDICES = tuple(
    tuple(tuple(8 * place + i for i in range(8) if byte >> i & 1) for byte in range(256))
    for place in range(SELECT_SIZE)
)
"""Of each byte of a bitmap, by its place: which PCRs it selects."""


@dataclass(frozen=True, slots=True)
class Clock:
    """`clock` in ms over the TPM's life, `reset` and `restart` counted by the TPM; `safe`: never shown greater before."""

    clock: int
    reset: int
    restart: int
    safe: bool


@dataclass(frozen=True, slots=True)
class Attest:
    """What a quote signs. `selection` is (bank, PCR indices ascending) in the order in which `pcr_digest` covers them."""

    qualified_signer: bytes
    extra_data: bytes
    clock: Clock
    firmware: int
    selection: tuple[tuple[str, tuple[int, ...]], ...]
    pcr_digest: bytes


def parse_attest(data: bytes) -> Attest:
    """The quote in a TPMS_ATTEST. Raises `EvidenceRefusal`: not_tpm_generated, wrong_attest_type, pcr_selection,
    non_canonical."""
    reader = Reader(data, "TPMS_ATTEST")
    magic, kind = reader.unpack(_HEAD)
    if magic != TPM_GENERATED:
        raise refuse(NOT_TPM_GENERATED, "no TPM made this", expected="ff544347", seen=f"{magic:08x}")
    if kind != ST_ATTEST_QUOTE:
        raise refuse(WRONG_ATTEST_TYPE, "attested is not a quote", expected="8018", seen=f"{kind:04x}")
    signer = reader.sized(MAX_NAME)
    extra = reader.sized(MAX_DIGEST)
    ticks, reset, restart, safe, firmware = reader.unpack(_CLOCK_AND_FIRMWARE)
    if safe > 1:
        raise reader.bad(f"safe is neither YES nor NO but {safe}")
    selection = _selection(reader)
    pcr_digest = reader.sized(MAX_DIGEST)
    reader.end()
    return Attest(signer, extra, Clock(ticks, reset, restart, bool(safe)), firmware, selection, pcr_digest)


def _selection(reader: Reader) -> tuple[tuple[str, tuple[int, ...]], ...]:
    count = reader.u32()
    if not 1 <= count <= MAX_BANKS:
        raise refuse(PCR_SELECTION, "a quote selects PCRs", expected=f"1 to {MAX_BANKS} banks", seen=str(count))
    found: list[tuple[str, tuple[int, ...]]] = []
    for _ in range(count):
        number, size = reader.unpack(_BANK)
        if size != SELECT_SIZE:
            raise refuse(PCR_SELECTION, "a PCR bitmap has 3 bytes", expected="3", seen=str(size))
        low, middle, high = reader.take(SELECT_SIZE)
        bank = HASHES.get(number)
        if bank is None or any(bank == other for other, _ in found):
            raise refuse(PCR_SELECTION, "a bank is unknown or selected twice", seen=bank or f"{number:04x}")
        chosen = _INDICES[0][low] + _INDICES[1][middle] + _INDICES[2][high]
        if not chosen:
            raise refuse(PCR_SELECTION, "nothing is selected in a bank", seen=bank)
        found.append((bank, chosen))
    return tuple(found)
