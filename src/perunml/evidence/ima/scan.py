"""Goes through an IMA log once: each line is read, its template hash checked, PCR 10 replayed in every quoted bank, and the
line judged. Most lines are plainly listed files, which one look-up recognises; nothing is kept of them, so memory does not
grow with the log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct, error
from typing import Any

from perunml.evidence.baseline import Allowed
from perunml.evidence.bundle import BANK_SIZES
from perunml.evidence.ima.lines import PCR, LineJudge
from perunml.evidence.ima.parse import HASH_SIZE, MAX_LINES, bad, read_line
from perunml.evidence.ima.replay import VIOLATION, wrong_template_hash
from perunml.evidence.ima.state import LogState, Noted
from perunml.wire.rules import Reason

_PLAIN = {b"ima-ng": (False, False), b"ima-sig": (True, False), b"ima-ngv2": (False, True), b"ima-sigv2": (True, True)}
"""Templates whose lines may be plain: whether they have a signature field, and whether they name the digest's type."""
_UNSIGNED = bytes(4)
_U32 = Struct("<I")
_LENGTH = _U32.unpack_from
_TYPED = {_U32.pack(size + 12) + b"ima:": _U32.pack(size + 8) for size in (32, 48, 64)}
"""How a digest field of ``ima:sha…:\\0`` and so many bytes begins, and how it does without the type."""

_HEADS = {name: (head.unpack_from, head.size) for name in _PLAIN for head in [Struct(f"<I{HASH_SIZE}sI{len(name)}sI")]}
"""All of a line before its template data, by the template's name."""


@dataclass(slots=True)
class _Bank:
    hash: Any
    size: int
    quoted: bytes
    value: bytes
    before: bytes
    proven: int = 0


class Scan:
    """A log under judgement. `proven` is by bank: the lines that its quoted value proves, 0 for none."""

    def __init__(self, allowed: Allowed, quoted: Mapping[str, bytes], state: LogState | None = None) -> None:
        self._plain = allowed.plain
        self.judge = LineJudge(allowed, state.noted if state else Noted())
        self.lines = state.lines if state else 0
        self.size = state.size if state else 0
        self.reasons: list[Reason] = []
        self._banks: dict[str, _Bank] = {}
        for bank, value in quoted.items():
            size = BANK_SIZES[bank]
            before, after = state.values[bank] if state else (bytes(size), bytes(size))
            held = _Bank(getattr(hashlib, bank), size, value, after, before)
            held.proven = self.lines if after == value else self.lines - 1 if before == value else 0
            self._banks[bank] = held

    @property
    def proven(self) -> dict[str, int]:
        return {bank: held.proven for bank, held in self._banks.items()}

    @property
    def values(self) -> dict[str, tuple[bytes, bytes]]:
        """Each bank's PCR 10 before the last line, and after it."""
        return {bank: (held.before, held.value) for bank, held in self._banks.items()}

    def read(self, log: bytes, start: int, end: int) -> None:
        """The lines of `log` from byte `start` to byte `end`. Raises `EvidenceRefusal` (non_canonical) unless lines are
        there, whole."""
        at = start
        template = b""
        while at < end:
            if template:
                at = self._plain_lines(log, at, end, template)
                if at >= end:
                    break
            line, following = read_line(log, at, self.lines + 1)
            if following > end:
                raise bad(self.lines + 1, "what was accepted before ends inside it")
            self.lines += 1
            _, found, data, _, _, template = line
            if found == VIOLATION:
                for bank in self._banks.values():
                    self._extend(bank, b"\xff" * bank.size)
            else:
                if not self.reasons and found != hashlib.sha1(data, usedforsecurity=False).digest():
                    self.reasons = [wrong_template_hash(self.lines)]
                for bank in self._banks.values():
                    self._extend(bank, bank.hash(data).digest())
            self.judge.see(self.lines, line)
            at = following
            template = template if template in _PLAIN else b""
            if self.judge.is_full:
                break
        self.size += at - start

    def _extend(self, bank: _Bank, digest: bytes) -> None:
        bank.before = bank.value
        bank.value = bank.hash(bank.value + digest).digest()
        if bank.value == bank.quoted:
            bank.proven = self.lines

    def _plain_lines(self, log: bytes, at: int, end: int, template: bytes) -> int:
        """Lines of the template that are plainly listed files, up to the first that is not. Everything that is looked up
        here is in local names, since this is where the time goes."""
        banks = tuple(self._banks.values())
        if not banks:
            return at
        signed, typed = _PLAIN[template]
        name_size, plain, sha1 = len(template), self._plain, hashlib.sha1
        unpack, head_size = _HEADS[template]
        first, others = banks[0], banks[1:]
        hash_of, quoted, before, value, proven = first.hash, first.quoted, first.before, first.value, first.proven
        lines, last = self.lines, end - head_size
        while at <= last and lines < MAX_LINES:
            pcr, found, size, name, length = unpack(log, at)
            begin = at + head_size
            following = begin + length
            if name != template or size != name_size or pcr != PCR or following > end:
                break
            data = log[begin:following]
            file = data
            if typed:
                if data[:8] not in _TYPED:
                    break
                file = _TYPED[data[:8]] + data[8:]
            if signed:
                file = file[:-4] if file[-4:] == _UNSIGNED else file[: _file_size(file)]
            if file not in plain:
                break
            if sha1(data, usedforsecurity=False).digest() != found:
                break
            lines += 1
            at = following
            before = value
            value = hash_of(value + hash_of(data).digest()).digest()
            if value == quoted:
                proven = lines
            if others:
                self.lines = lines
                for bank in others:
                    self._extend(bank, bank.hash(data).digest())
        self.lines = lines
        first.before, first.value, first.proven = before, value, proven
        return at


def _file_size(data: bytes) -> int:
    """Bytes of ima-sig data that ima-ng has too, digest and path; 0 unless one field and nothing else follows them."""
    try:
        at = 4 + _LENGTH(data)[0]
        at += 4 + _LENGTH(data, at)[0]
        return at if at + 4 + _LENGTH(data, at)[0] == len(data) else 0
    except error:
        return 0
