"""An IMA log in a file: its lines, what can be judged of it without a policy, and what it tells."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perunml.evidence.bundle import BANK_SIZES
from perunml.evidence.codes import BOOT_AGGREGATE, IMA_NOT_EXTENDED, IMA_PCR, IMA_TEMPLATE, NON_CANONICAL
from perunml.evidence.ima.forms import TEXT, read_log
from perunml.evidence.ima.parse import HASH_SIZE, IMA, TEMPLATES, Line, fields_of
from perunml.evidence.ima.replay import VIOLATION, check_template_hashes, prefix_values
from perunml.wire.errors import refuse
from perunml.wire.rules import Reason, printable

MAX_FILE = 256 * 1024 * 1024
"""Bytes of a log: a million lines with signatures."""
PCR = 10
AGGREGATE = b"boot_aggregate"
AGGREGATED = {"sha1": 8, "sha256": 10, "sha384": 10, "sha512": 10}
"""PCRs from 0 on that boot_aggregate hashes, by its algorithm (Linux, ima_crypto.c, ima_calc_boot_aggregate_tfm)."""

Values = Mapping[str, Mapping[int, bytes]]


@dataclass(frozen=True, slots=True)
class ImaLog:
    """`reasons` is what is wrong with the log itself, whatever a quote says; `form` as of `ima.forms.read_log`."""

    lines: Sequence[Line]
    reasons: tuple[Reason, ...]
    form: str

    def aggregate(self, values: Values, *, quoted: bool) -> bool | None:
        """Whether the first line is the boot_aggregate of these values, `quoted` ones or a boot log's; None where they do
        not tell."""
        if (first := self._first()) is None:
            return None
        bank, value = first
        if bank not in AGGREGATED or not (held := values.get(bank)):
            return None
        wanted = [held.get(index) for index in range(AGGREGATED[bank])]
        if quoted and None in wanted:
            return None
        # in a boot log, a PCR that nothing extends is as it was at reset
        return hashlib.new(bank, b"".join(w or bytes(BANK_SIZES[bank]) for w in wanted)).digest() == value

    def against(self, proven: Values, replayed: Values, covered: int | None) -> list[Reason]:
        """What the quoted values, or where a bank is not quoted the boot log's, say against the log."""
        if covered == 0:
            return [Reason(IMA_NOT_EXTENDED, "IMA measured nothing into this TPM", seen="the quoted PCR 10 is zero")]
        if not self.lines or self.lines[0][4] != AGGREGATE:
            seen = _shown(self.lines[0][4]) if self.lines else "an empty log"
            return [Reason(BOOT_AGGREGATE, "the IMA log does not begin with boot_aggregate", seen=seen)]
        fits = self.aggregate(proven, quoted=True)
        if fits is None:
            fits = self.aggregate(replayed, quoted=False)
        if fits is False:
            return [Reason(BOOT_AGGREGATE, "boot_aggregate is not that of the boot's PCRs")]
        return []

    def of_others(self) -> list[Reason]:
        """A reason when a line is for another PCR than 10: the kernel can be told to measure into several, and PCR 10 proves
        nothing of such a line."""
        for number, line in enumerate(self.lines, 1):
            if line[0] != PCR:
                told = f"line {number} of the IMA log is for another PCR"
                return [Reason(IMA_PCR, told, expected=str(PCR), seen=str(line[0]))]
        return []

    def replayed(self) -> dict[str, str]:
        """PCR 10 after the whole log, by bank."""
        found = {}
        for bank, size in BANK_SIZES.items():
            value = bytes(size)
            for value in prefix_values(self.lines, bank):  # noqa: B007  # the last one is wanted
                pass
            found[bank] = value.hex()
        return found

    def binary(self) -> bytes:
        """The log in the kernel's binary form, whatever form it came in: the appraisal reads no other."""
        made = []
        for pcr, template_hash, data, _, path, template in self.lines:
            old = data[:HASH_SIZE] + len(path).to_bytes(4, "little") + path
            body = old if template == IMA else len(data).to_bytes(4, "little") + data
            made.append(
                pcr.to_bytes(4, "little") + template_hash + len(template).to_bytes(4, "little") + template + body
            )
        return b"".join(made)

    def claims(self, covered: int | None) -> dict[str, Any]:
        """What the log tells; `covered` lines of it are proven."""
        algorithms = Counter(_shown(line[3].partition(b":")[0]) for line in self.lines)
        first = self._first()
        return {
            "form": self.form,
            "weaker": self.form.startswith(TEXT),
            "entries": len(self.lines),
            "covered": covered,
            "violations": sum(line[1] == VIOLATION for line in self.lines),
            "pcrs": {str(pcr): count for pcr, count in sorted(Counter(line[0] for line in self.lines).items())},
            "templates": dict(sorted(Counter(_shown(line[5]) for line in self.lines).items())),
            "digests": dict(sorted(algorithms.items())),
            "boot_aggregate": f"{first[0]}:{first[1].hex()}" if first is not None else None,
        }

    def _first(self) -> tuple[str, bytes] | None:
        if not self.lines or self.lines[0][4] != AGGREGATE:
            return None
        algorithm, _, value = self.lines[0][3].partition(b":\0")
        return _shown(algorithm), value


def only_aggregate(replayed: Values) -> Iterator[ImaLog]:
    """The logs, of one line each, that kernels without an IMA policy have by themselves: boot_aggregate of a boot log's
    PCRs, in each bank and in the templates that are a kernel's default."""
    for bank, count in AGGREGATED.items():
        if held := replayed.get(bank):
            values = b"".join(held.get(index, bytes(BANK_SIZES[bank])) for index in range(count))
            digest = bank.encode() + b":\0" + hashlib.new(bank, values).digest()
            for template in (b"ima-ng", b"ima-sig"):
                fields = [digest, AGGREGATE + b"\0", *([b""] if template == b"ima-sig" else [])]
                data = b"".join(len(field).to_bytes(4, "little") + field for field in fields)
                line = (PCR, hashlib.sha1(data, usedforsecurity=False).digest(), data, digest, AGGREGATE, template)
                yield ImaLog([line], (), "computed")


def read_ima(data: bytes) -> ImaLog:
    """Raises `EvidenceRefusal` for a log that does not parse."""
    if len(data) > MAX_FILE:
        raise refuse(NON_CANONICAL, "the IMA log is too long", expected=f"at most {MAX_FILE} bytes")
    lines, form = read_log(data)
    reasons = check_template_hashes(lines)
    for number, line in enumerate(lines, 1):
        if line[5] != IMA and not fields_of(line[5]):
            told = f"line {number} of the IMA log is of an unknown template"
            reasons.append(Reason(IMA_TEMPLATE, told, expected=", ".join(map(_shown, TEMPLATES)), seen=_shown(line[5])))
            break
    return ImaLog(lines, tuple(reasons), form)


def _shown(text: bytes) -> str:
    return printable(text.decode("utf-8", "backslashreplace"), 200)
