"""Judges single lines of an IMA log that are not plainly listed files: what they show, and why they are refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from perunml.evidence.baseline import Allowed
from perunml.evidence.codes import (
    BOOT_AGGREGATE,
    IMA_KEYRING,
    IMA_PCR,
    IMA_POLICY,
    IMA_SIGNATURE,
    IMA_TEMPLATE,
    IMA_VIOLATION,
    NON_CANONICAL,
    NOT_IN_POLICY,
    WEAK_DIGEST,
)
from perunml.evidence.ima.parse import TEMPLATES, Line, field_of
from perunml.evidence.ima.plain import AGGREGATE, POLICY_FILE, POLICY_LINES, POLICY_LOADED, policy_digests
from perunml.evidence.ima.replay import VIOLATION
from perunml.evidence.ima.signature import key_in, verified_by
from perunml.evidence.ima.state import Loading, Noted
from perunml.wire.rules import Reason, Rule, printable

PCR = 10
MAX_REASONS = 24
"""Reasons told about lines, a machine out of its baseline has thousands; the rest is counted."""
MAX_REFUSED = 10_000
"""Refused lines after which the rest of a log is not looked at: it is refused, and nobody reads so many reasons."""
KEYRINGS = (b".ima", b"_ima")
"""Where the kernel looks for the keys of file signatures."""
_SIZES = {b"sha256:": 32, b"sha384:": 48, b"sha512:": 64}
_NOTHING: frozenset[bytes] = frozenset()


class LineJudge:
    """Sees lines in their order, begins with what earlier ones showed."""

    def __init__(self, allowed: Allowed, noted: Noted) -> None:
        self._files, self._rules = allowed.files, allowed.ima
        self._policies = policy_digests(allowed.ima)
        self._violations = frozenset(path.encode() for path in allowed.ima.violations)
        self._require = frozenset(path.encode() for path in allowed.ima.require)
        self._first, self._policy, self._loads, self._loading = noted.first, noted.policy, noted.loads, noted.loading
        # files that were required are all there in a log that was accepted; only where the last one is still counts
        self._required, self._measured, self._keys = noted.required, dict[bytes, int](), dict(noted.keys)
        self._reasons: list[Reason] = []
        self._left = 0
        self._signed: set[bytes] = set()

    @property
    def is_full(self) -> bool:
        """So many lines were refused that the rest need not be looked at."""
        return self._left > MAX_REFUSED

    @property
    def noted(self) -> Noted:
        """All that was shown up to now."""
        required = self._required or max(self._measured.values(), default=0)
        return Noted(self._first, required, self._policy, self._loads, self._loading, dict(self._keys))

    @property
    def reasons(self) -> list[Reason]:
        """Why lines were refused: the first `MAX_REASONS`, and how many more."""
        if not self._left:
            return self._reasons
        last = self._reasons[-1]
        rest = "; what follows was not looked at" if self.is_full else ""
        return [*self._reasons[:-1], Reason(last.rule, f"and {self._left} more lines of the IMA log are refused{rest}")]

    def missing(self, proven: int) -> list[bytes]:
        """The files that must be measured and are not among the `proven` lines; after a state that was gone on from, all of
        them when one is not."""
        if self._required:
            return sorted(self._require) if self._required > proven else []
        return [path for path in sorted(self._require) if not 0 < self._measured.get(path, 0) <= proven]

    def see(self, number: int, line: Line) -> None:
        """One line, `number` of its log."""
        pcr, template_hash, _, digest, path, template = line
        if number == 1:
            self._first = digest, path
        if pcr != PCR:
            self._add(IMA_PCR, f"line {number} of the IMA log is for another PCR", "10", str(pcr))
        if template_hash == VIOLATION:
            if path not in self._violations:
                self._add(IMA_VIOLATION, f"line {number} of the IMA log is a violation", seen=shown(path))
        elif number == 1 and path == AGGREGATE:
            pass  # judged by the quoted PCRs
        elif self._is_strong(number, digest, path, template):
            judge: Callable[[int, Line], bool] = self._buffer if template == b"ima-buf" else self._file
            if path == AGGREGATE:
                judge = self._aggregate
            if judge(number, line) and path in self._require:
                self._measured.setdefault(path, number)

    def _is_strong(self, number: int, digest: bytes, path: bytes, template: bytes) -> bool:
        algorithm, _, value = digest.partition(b"\0")
        if template not in TEMPLATES and template != b"ima":
            told = f"line {number} of the IMA log is of a template that proves no file"
            self._add(IMA_TEMPLATE, told, ", ".join(shown(name) for name in TEMPLATES), shown(template))
        elif _SIZES.get(algorithm) != len(value):
            told = f"line {number} of the IMA log has a digest that is not accepted"
            self._add(WEAK_DIGEST, told, seen=f"{shown(algorithm)} with {len(value)} bytes, {shown(path)}")
        else:
            return True
        return False

    def _aggregate(self, number: int, line: Line) -> bool:
        if not self._rules.kexec:
            self._add(BOOT_AGGREGATE, f"line {number} of the IMA log is another boot_aggregate")
        elif (line[3], line[4]) != self._first:
            self._add(BOOT_AGGREGATE, f"line {number} of the IMA log is a boot_aggregate of other PCRs than the first")
        return False

    def _file(self, number: int, line: Line) -> bool:
        digest, path = line[3], line[4]
        listed = digest in self._files.get(path, _NOTHING)
        if digest in self._policies or path == POLICY_FILE or path in POLICY_LINES:
            return self._policy_line(number, line, listed=listed)
        if listed:
            return True
        if self._rules.keys and (signature := field_of(line, b"sig")):
            # what is doubled, or refused anyway, costs no signature check
            known = line[2] in self._signed
            if known or (not self._left and verified_by(signature, digest, self._keys) is not None):
                self._signed.add(line[2])
                return True
            told = "its signature is by no agreed and measured key, or does not verify"
            self._add(IMA_SIGNATURE, f"{shown(path)} was loaded and is not agreed; {told}", seen=_told(digest))
            return False
        self._not_agreed(digest, path)
        return False

    def _buffer(self, number: int, line: Line) -> bool:
        digest, path = line[3], line[4]
        content = field_of(line, b"buf")
        algorithm, _, value = digest.partition(b":\0")
        if hashlib.new(algorithm.decode(), content).digest() != value:  # strong, so known
            self._add(
                NON_CANONICAL, f"line {number} of the IMA log does not have its content's digest", seen=shown(path)
            )
            return False
        listed = digest in self._files.get(path, _NOTHING)
        if path in POLICY_LINES:
            return self._policy_line(number, line, listed=listed)
        if f"sha256:{hashlib.sha256(content).hexdigest()}" in self._rules.keyrings and path[:1] in (b".", b"_"):
            if path in KEYRINGS and (key := key_in(content, self._rules.keys)):
                self._keys.update([key])
            return True
        if listed:
            return True
        if path[:1] in (b".", b"_"):
            self._add(IMA_KEYRING, f"a key entered the keyring {shown(path)} and is not agreed", seen=_told(digest))
        else:
            self._not_agreed(digest, path)
        return False

    def _policy_line(self, number: int, line: Line, *, listed: bool) -> bool:
        """A part of a policy that was loaded: its file, what was written, the rules that came of it; in this order."""
        digest, path = line[3], line[4]
        if digest not in self._policies if self._policies else not listed:
            expected = ", ".join(sorted(self._rules.policies)[:2])
            self._add(IMA_POLICY, f"{shown(path)}: an IMA policy that is not agreed", expected, _told(digest))
            return False
        is_file = path not in POLICY_LINES  # the template is covered by no digest, and ima-sig has the form of ima-buf
        if self._loading is Loading.NO or (is_file and self._loading is Loading.FILE):
            if self._loads and not self._rules.reload:
                self._add(IMA_POLICY, f"line {number} of the IMA log: a policy was loaded again", seen=shown(path))
                return False
            self._loads += 1
            self._loading = Loading.FILE if is_file else Loading.TEXT
        if path == POLICY_LOADED:
            self._loading = Loading.NO
        self._policy = self._policy or number
        return True

    def _not_agreed(self, digest: bytes, path: bytes) -> None:
        listed = [_told(known) for known in sorted(self._files.get(path, ()))]
        told = f"{shown(path)} was loaded" + (" with another digest than agreed" if listed else " and is not agreed")
        self._add(NOT_IN_POLICY, told, ", ".join(listed[:2]), _told(digest))

    def _add(self, rule: Rule, message: str, expected: str = "", seen: str = "") -> None:
        reason = Reason(rule, message, expected, seen)
        if len(self._reasons) > MAX_REASONS:
            self._reasons[-1] = reason  # its rule is told with the number of those left out
            self._left += 1
        else:
            self._reasons.append(reason)
            self._left += len(self._reasons) > MAX_REASONS


def shown(text: bytes) -> str:
    """A path or name of the log, as a person may see it."""
    return printable(text.decode("utf-8", "backslashreplace"), 200)


def _told(digest: bytes) -> str:
    algorithm, _, value = digest.partition(b"\0")
    return shown(algorithm) + value.hex()
