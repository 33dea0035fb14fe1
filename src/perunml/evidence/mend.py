"""The smallest change that would admit a machine which was refused: what the operator does, or what the parties would have to
agree on, as lines of a baseline.

Read out of the reasons as they were told, for these are all that a party gets. A change is a proposal, never a judgement: what
it would admit is whatever the refused machine showed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perunml.evidence import codes
from perunml.evidence.rules import is_digest, is_path
from perunml.wire.rules import Reason

SHOWN_PATH = 200
"""Characters of a path that a reason tells; a longer one, or one with characters that are not shown as they are, must be
looked up in the machine's own log."""
_FILE = re.compile(
    r"(?P<path>.+) was loaded(?: and is not agreed(?:; its signature .+)?| with another digest than agreed)", re.DOTALL
)
_PCR = re.compile(r"PCR (?P<index>\d+) \((?P<bank>sha256|sha384|sha512)\) has another value than agreed")
_EVENT = re.compile(r"event \d+, PCR (?P<index>\d+): (?P<what>.+) is not agreed")
_DIGEST = re.compile(r"(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})(?![0-9a-f])")
_HEX = re.compile(r"[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128}")


@dataclass(frozen=True, slots=True)
class Mend:
    """One change. `who` is ``operator`` (the machine is put right) or ``parties`` (a new baseline, which they approve);
    `sentence` says it; `baseline` holds the lines to add, as in a baseline's JSON, or nothing."""

    code: str
    who: str
    sentence: str
    baseline: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"code": self.code, "who": self.who, "sentence": self.sentence, "baseline": dict(self.baseline)}


def mends(reasons: Sequence[Reason]) -> tuple[Mend, ...]:
    """A change for each reason that has one, in order, each once; reasons that only say what their rule's `mend` says have
    none."""
    found = [mend for reason in reasons for mend in _MENDS.get(reason.code, _nothing)(reason)]
    return tuple(mend for number, mend in enumerate(found) if mend not in found[:number])


def lines(found: Sequence[Mend]) -> dict[str, Any]:
    """All lines to add, as one part of a baseline's JSON: ``{files: {path: [digests]}, pcrs: {bank: {index: value}}, boot:
    {…}, ima: {…}, tpm: {…}}``."""
    merged: dict[str, Any] = {}
    for mend in found:
        _merge(merged, mend.baseline)
    return merged


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, Mapping):
            _merge(into.setdefault(name, {}), value)
        elif isinstance(value, list):
            into[name] = sorted({*into.get(name, []), *value})
        else:
            into[name] = value


def _nothing(reason: Reason) -> Iterator[Mend]:
    return iter(())


def _file(reason: Reason) -> Iterator[Mend]:
    said = _FILE.fullmatch(reason.message)
    if said is None or not is_digest(reason.seen):
        return
    path = said["path"]
    # a backslash may be an escape of what could not be shown
    if not is_path(path) or len(path) >= SHOWN_PATH or "\\" in path:
        yield Mend(
            reason.code, "parties", f"list {path} with {reason.seen}; take the path itself from the machine's log"
        )
        return
    yield Mend(reason.code, "parties", f"list {path} with {reason.seen}", {"files": {path: [reason.seen]}})


def _pcr(reason: Reason) -> Iterator[Mend]:
    said = _PCR.fullmatch(reason.message)
    if said is None or not _HEX.fullmatch(reason.seen):
        return
    bank, index = said["bank"], said["index"]
    sentence = f"allow {reason.seen} as PCR {index} of the {bank} bank"
    yield Mend(reason.code, "parties", sentence, {"pcrs": {bank: {index: reason.seen}}})


def _event(reason: Reason) -> Iterator[Mend]:
    said, digest = _EVENT.fullmatch(reason.message), _DIGEST.match(reason.seen)
    if said is None or digest is None:
        return
    rule = {"4": "applications", "14": "mok"}.get(said["index"], "loaded")
    if said["what"] == "what vouched for an image":
        told = _DIGEST.search(reason.seen, digest.end())
        if told is None:
            return
        rule, digest = "authorities", told
    yield Mend(reason.code, "parties", f"list {digest[0]} in boot.{rule}", {"boot": {rule: [digest[0]]}})


def _cmdline(reason: Reason) -> Iterator[Mend]:
    if "lacks" in reason.message or "no measured" in reason.message:
        yield Mend(reason.code, "operator", f"boot the kernel with: {reason.expected}")
    else:
        yield Mend(reason.code, "operator", f"boot the kernel without: {reason.seen}")


def _violation(reason: Reason) -> Iterator[Mend]:
    if is_path(reason.seen) and len(reason.seen) < SHOWN_PATH and "\\" not in reason.seen:
        sentence = f"excuse a violation at {reason.seen}; or keep it from being written while it is read, and reboot"
        yield Mend(reason.code, "parties", sentence, {"ima": {"violations": [reason.seen]}})


def _in_rules(rule: str, sentence: str) -> Callable[[Reason], Iterator[Mend]]:
    """For a reason that saw a digest which could be listed in `ima.<rule>`."""

    def made(reason: Reason) -> Iterator[Mend]:
        if reason.seen.startswith("sha256:") and is_digest(reason.seen):
            said = f"{sentence}: list {reason.seen} in ima.{rule}"
            yield Mend(reason.code, "parties", said, {"ima": {rule: [reason.seen]}})

    return made


def _required(reason: Reason) -> Iterator[Mend]:
    path, separator, _ = reason.message.partition(" was not measured")
    if separator:
        yield Mend(reason.code, "operator", f"boot with an IMA policy that measures {path} from the start, and load it")


def _says(who: str, sentence: str, baseline: Mapping[str, Any] | None = None) -> Callable[[Reason], Iterator[Mend]]:
    def made(reason: Reason) -> Iterator[Mend]:
        yield Mend(reason.code, who, sentence, baseline or {})

    return made


_MENDS: Mapping[str, Callable[[Reason], Iterator[Mend]]] = {
    codes.NOT_IN_POLICY.code: _file,
    codes.PCR_MISMATCH.code: _pcr,
    codes.BOOT_EVENT.code: _event,
    codes.KERNEL_CMDLINE.code: _cmdline,
    codes.IMA_VIOLATION.code: _violation,
    codes.IMA_SIGNATURE.code: _file,
    codes.IMA_KEYRING.code: _in_rules("keyrings", "allow the key"),
    codes.IMA_POLICY.code: _in_rules("policies", "allow the IMA policy"),
    codes.IMA_REQUIRED.code: _required,
    codes.SECURE_BOOT_OFF.code: _says(
        "operator", "turn Secure Boot on in the firmware's setup, with a platform key, and reboot"
    ),
    codes.DBX_OUTDATED.code: _says("operator", "update the firmware's list of revoked images (dbx), and reboot"),
    codes.FIRMWARE_DENIED.code: _says("operator", "update the TPM's firmware to a version that is not denied"),
    codes.CLOCK_UNSAFE.code: _says(
        "operator", "wait until the TPM's clock is safe again (at most 70 minutes), or shut down and boot in order"
    ),
    codes.IMA_NOT_EXTENDED.code: _says(
        "operator", "boot with an IMA policy (ima_policy=tcb) and a TPM driver built in"
    ),
    codes.EVENT_LOG_MISSING.code: _says("operator", "let the agent read the firmware's boot log (securityfs mounted)"),
    codes.WEAK_DIGEST.code: _says("operator", "boot with ima_hash=sha256"),
}
