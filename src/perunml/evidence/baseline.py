"""The agreed state of a machine: a document that an agreement names by its digest.

Read strictly, judged strictly: what a baseline leaves out is refused. ``pcrs`` and ``files`` are always there; ``boot``,
``ima``, ``tpm`` and ``until`` only where the parties want to say more, so a document that does not say it has the digest
that it always had.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from perunml.evidence.bundle import BANK_SIZES, read_bank
from perunml.evidence.ima.plain import plain_data, raw_digest
from perunml.evidence.rows import Rows
from perunml.evidence.rules import STRONG_BANKS, BootRules, ImaRules, TpmRules, members, read_files, unhex
from perunml.wire.canonical import load_canonical
from perunml.wire.codes import MALFORMED
from perunml.wire.digests import digest as digest_of_bytes
from perunml.wire.digests import digest_of
from perunml.wire.dsse import API_VERSION
from perunml.wire.errors import refuse
from perunml.wire.timestamps import format_time, parse_time

MAX_UNTIL = 8
"""Windows of one baseline: an update is rolled out in one, rarely two at a time."""

MAX_BASELINE = 64 * 1024 * 1024
"""Bytes of a baseline's payload: 200,000 files have 27 MB."""

Values = Mapping[str, Mapping[int, bytes]]
Files = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Until:
    """A window for an update: the older state stays allowed beside the newer one, up to `end` (seconds since 1970,
    exclusive)."""

    end: int
    pcrs: Values
    files: Files

    def as_json(self) -> dict[str, Any]:
        return {"end": format_time(self.end), **_state_json(self.pcrs, self.files)}


@dataclass(frozen=True)
class Allowed:
    """What a baseline allows at one time.

    pcrs   bank -> index -> the values of which one must be there
    files  path as the kernel writes it -> digests as in a d-ng field: ``algorithm:\\0`` and the raw digest
    ima    what else the IMA log must show
    state  names the baseline and which of its windows are open: what was judged under one holds under the same
    """

    pcrs: Mapping[str, Mapping[int, frozenset[bytes]]]
    files: Mapping[bytes, frozenset[bytes]]
    ima: ImaRules = field(default_factory=ImaRules)
    state: str = ""

    @cached_property
    def plain(self) -> frozenset[bytes]:
        """Digest and path of each listed file as ima-ng template data: a line of these data needs no further look. What
        `ima` says more about is not among them."""
        return plain_data(self.files, self.ima)


@dataclass(frozen=True)
class Baseline:
    """DSSE kind ``Baseline``.

    pcrs   bank -> index -> the value demanded; strong banks only
    files  path -> digests allowed (``sha256:…``, ``sha384:…``, ``sha512:…``); a file not here may not be loaded
    boot   what the boot log must show; None: nothing is taken from it, and PCRs 0 to 9 are demanded as they are
    ima    what the IMA log must show, and what is excused in it
    tpm    what is asked of the TPM itself
    until  older states still allowed for a while
    """

    pcrs: Values
    files: Files
    boot: BootRules | None = None
    ima: ImaRules = field(default_factory=ImaRules)
    tpm: TpmRules = field(default_factory=TpmRules)
    until: tuple[Until, ...] = ()

    def as_json(self) -> dict[str, Any]:
        found = _state_json(self.pcrs, self.files)
        if self.boot is not None:
            found["boot"] = self.boot.as_json()
        if self.ima != ImaRules():
            found["ima"] = self.ima.as_json()
        if self.tpm != TpmRules():
            found["tpm"] = self.tpm.as_json()
        if self.until:
            found["until"] = [window.as_json() for window in self.until]
        return found

    @cached_property
    def digest(self) -> str:
        """``sha256:`` of the document's payload: what an agreement names."""
        return digest_of({"apiVersion": API_VERSION, "kind": "Baseline", **self.as_json()})

    def at(self, now: int) -> Allowed:
        """What is allowed at `now` (seconds since 1970): the state itself, and the windows that are still open."""
        return self._allowed(tuple(now < window.end for window in self.until))

    def exact(self, now: int, quoted: Values) -> Mapping[str, Mapping[int, frozenset[bytes]]]:
        """The PCRs that must have one of these values at `now`, beside the `quoted` ones. With boot rules, a PCR that only
        an open window names holds for machines of that older state; the others are judged by their events."""
        allowed = self.at(now).pcrs
        if self.boot is None:
            return allowed
        return {
            bank: {
                index: held
                for index, held in values.items()
                if index in self.pcrs.get(bank, {}) or quoted.get(bank, {}).get(index) in held
            }
            for bank, values in allowed.items()
        }

    def _allowed(self, windows: tuple[bool, ...]) -> Allowed:
        if (kept := self._kept.get(windows)) is None:
            states = [(self.pcrs, self.files)]
            states += [(w.pcrs, w.files) for w, is_open in zip(self.until, windows, strict=True) if is_open]
            pcrs, files = _union(states)
            state = f"{self.digest} {''.join(str(int(is_open)) for is_open in windows)}"
            kept = self._kept[windows] = Allowed(pcrs, files, self.ima, state)
            if isinstance(self.files, Rows) and len(states) == 1:
                kept.__dict__["plain"] = self.files.plain(self.ima)  # what `plain` would make of the same files
        return kept

    @cached_property
    def _kept(self) -> dict[tuple[bool, ...], Allowed]:
        return {}

    @classmethod
    def from_json(cls, data: Any) -> Baseline:
        """From `as_json`'s object, or a document's payload with its apiVersion and kind. Raises `UsageError`
        (malformed)."""
        if isinstance(data, dict) and data.get("kind") == "Baseline" and data.get("apiVersion") == API_VERSION:
            data = {k: v for k, v in data.items() if k not in ("kind", "apiVersion")}
        members(data, "a baseline", {"pcrs", "files"}, {"boot", "ima", "tpm", "until"})
        windows = data.get("until", [])
        if not isinstance(windows, list) or len(windows) > MAX_UNTIL or ("until" in data and not windows):
            raise refuse(MALFORMED, f"`until` is a list of 1 to {MAX_UNTIL} windows")
        made = cls(
            _pcrs(data["pcrs"]),
            read_files(data["files"]),
            BootRules.from_json(data["boot"]) if "boot" in data else None,
            ImaRules.from_json(data["ima"]) if "ima" in data else ImaRules(),
            TpmRules.from_json(data["tpm"]) if "tpm" in data else TpmRules(),
            tuple(_until(window) for window in windows),
        )
        # one spelling per meaning: an empty rule that says nothing is left out; values and files are read by one spelling
        if replace(made, pcrs={}, files={}).as_json() != {**data, "pcrs": {}, "files": {}}:
            raise refuse(MALFORMED, "the baseline has a spelling of its own", expected="no rules that say nothing")
        return made

    @classmethod
    def from_payload(cls, payload: bytes, digest: str = "") -> Baseline:
        """From a document's payload, at most `MAX_BASELINE` bytes. With the `digest` under which the very bytes were read
        before, they need not be judged again: it is compared, and they are only taken apart.

        Raises `UsageError` (malformed), for another digest too.
        """
        found = digest_of_bytes(payload)
        if not digest:
            data = load_canonical(payload, limit=MAX_BASELINE)
            if not isinstance(data, dict) or data.get("kind") != "Baseline":
                raise refuse(MALFORMED, "not a baseline", expected=f"{API_VERSION} Baseline")
            made = cls.from_json(data)
        elif digest == found:
            made = cls._accepted(json.loads(payload))
        else:
            raise refuse(MALFORMED, "not the baseline that was asked for", expected=digest, seen=found)
        made.__dict__["digest"] = found  # what `digest` would compute from the same bytes
        return made

    @classmethod
    def _accepted(cls, data: dict[str, Any]) -> Baseline:
        files = {path: frozenset(digests) for path, digests in data["files"].items()}
        return replace(cls.from_json({**data, "files": {}}), files=files)


def _union(
    states: list[tuple[Values, Files]],
) -> tuple[Mapping[str, Mapping[int, frozenset[bytes]]], Mapping[bytes, frozenset[bytes]]]:
    pcrs: dict[str, dict[int, frozenset[bytes]]] = {}
    for values, _ in states:
        for bank, bank_values in values.items():
            held = pcrs.setdefault(bank, {})
            for index, value in bank_values.items():
                held[index] = held.get(index, frozenset()) | {value}
    return pcrs, _files([listed for _, listed in states])


def _files(states: list[Files]) -> Mapping[bytes, frozenset[bytes]]:
    if len(states) == 1:  # no window is open, as nearly always
        (listed,) = states
        if isinstance(listed, Rows):
            return listed.raw()
        return {path.encode(): frozenset(map(raw_digest, digests)) for path, digests in listed.items()}
    files: dict[bytes, frozenset[bytes]] = {}
    for listed in states:
        for path, digests in listed.items():
            raw = frozenset(map(raw_digest, digests))
            files[path.encode()] = files.get(path.encode(), frozenset()) | raw
    return files


def _pcrs(data: Any) -> dict[str, dict[int, bytes]]:
    if not isinstance(data, dict) or not set(data) <= set(STRONG_BANKS):
        raise refuse(MALFORMED, "a baseline's PCRs are of strong banks", expected=", ".join(STRONG_BANKS))
    return {bank: read_bank(values, BANK_SIZES[bank], unhex) for bank, values in data.items()}


def _until(data: Any) -> Until:
    members(data, "a window", {"end", "pcrs", "files"})
    if not isinstance(data["end"], str):
        raise refuse(MALFORMED, "`end` is a time", expected="2026-12-31T00:00:00Z")
    return Until(parse_time(data["end"]), _pcrs(data["pcrs"]), read_files(data["files"]))


def _state_json(pcrs: Values, files: Files) -> dict[str, Any]:
    return {
        "pcrs": {bank: {str(i): v.hex() for i, v in values.items()} for bank, values in pcrs.items()},
        "files": {path: sorted(digests) for path, digests in files.items()},
    }
