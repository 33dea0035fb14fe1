"""What differs between two baselines, in sentences and as values, and which of it widens what a machine may do.

To *widen* is to allow a state that was refused before; to *narrow* is to refuse one that was allowed. A value that was
replaced does both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from perunml.evidence.baseline import Baseline, Until
from perunml.evidence.rules import BootRules, ImaRules, TpmRules
from perunml.wire.digests import digest_of
from perunml.wire.rules import printable
from perunml.wire.timestamps import format_time

Effect = Literal["widens", "narrows", "both"]

_ALLOWS = "allows"
_DEMANDS = "demands"
_ONE_OF = "one of"
_MEANING: Mapping[str, str] = {
    # a flag or item more: does it allow more, demand more, or (`one of`) demand, and then allow more?
    "boot.secure_boot": _DEMANDS,
    "boot.authorities": _ALLOWS,
    "boot.dbx": _DEMANDS,
    "boot.mok": _ALLOWS,
    "boot.applications": _ALLOWS,
    "boot.loaded": _ALLOWS,
    "boot.cmdline": _DEMANDS,
    "boot.no_cmdline": _DEMANDS,
    "boot.open": _ALLOWS,
    "ima.require": _DEMANDS,
    "ima.policies": _ONE_OF,
    "ima.keys": _ALLOWS,
    "ima.keyrings": _ALLOWS,
    "ima.violations": _ALLOWS,
    "ima.reload": _ALLOWS,
    "ima.kexec": _ALLOWS,
    "tpm.unsafe_clock": _ALLOWS,
    "tpm.denied_firmware": _DEMANDS,
    "tpm.discrete": _DEMANDS,
}
"""A rule that is not listed here counts as `both`: nothing new is taken for harmless."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `what` is ``file``, ``pcr``, ``rule`` or ``window``; `before` and `after` are None where it is not
    there."""

    what: str
    name: str
    before: Any
    after: Any
    effect: Effect

    @property
    def sentence(self) -> str:
        """In words, one line."""
        name = printable(self.name, 300)
        if self.before is None:
            said = f"{self.what} {name} is added: {_shown(self.after)}"
        elif self.after is None:
            said = f"{self.what} {name} is removed: {_shown(self.before)}"
        else:
            said = f"{self.what} {name} changes from {_shown(self.before)} to {_shown(self.after)}"
        return said + (" (widens and narrows)" if self.effect == "both" else f" ({self.effect})")

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "name": self.name,
            "before": self.before,
            "after": self.after,
            "effect": self.effect,
            "sentence": self.sentence,
        }


def difference(before: Baseline, after: Baseline) -> tuple[Change, ...]:
    """Every difference, files first, by name."""
    return (
        *_files(before.files, after.files),
        *_pcrs(before, after),
        *_rules("boot", before.boot or BootRules(), after.boot or BootRules()),
        *_rules("ima", before.ima, after.ima),
        *_rules("tpm", before.tpm, after.tpm),
        *_windows(before.until, after.until),
    )


def _files(before: Mapping[str, frozenset[str]], after: Mapping[str, frozenset[str]]) -> Iterator[Change]:
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old != new:
            old_list, new_list = _listed(old), _listed(new)
            yield Change("file", path, old_list, new_list, _effect(old or frozenset(), new or frozenset(), _ALLOWS))


def _pcrs(before: Baseline, after: Baseline) -> Iterator[Change]:
    old = {f"{bank}:{i}": value.hex() for bank, held in before.pcrs.items() for i, value in held.items()}
    new = {f"{bank}:{i}": value.hex() for bank, held in after.pcrs.items() for i, value in held.items()}
    for name in sorted(old.keys() | new.keys(), key=lambda pcr: (pcr.split(":")[0], int(pcr.split(":")[1]))):
        if old.get(name) != new.get(name):
            effect: Effect = "narrows" if name not in old else "widens" if name not in new else "both"
            yield Change("pcr", name, old.get(name), new.get(name), effect)


def _rules(group: str, before: Any, after: Any) -> Iterator[Change]:
    rules: BootRules | ImaRules | TpmRules = before
    for rule in fields(rules):
        old, new = getattr(before, rule.name), getattr(after, rule.name)
        if old == new:
            continue
        name = f"{group}.{rule.name}"
        meaning = _MEANING.get(name, "")
        if isinstance(old, frozenset):
            yield Change("rule", name, _listed(old) or None, _listed(new) or None, _effect(old, new, meaning))
        else:
            more, less = frozenset([True]), frozenset[bool]()
            effect = _effect(more if old else less, more if new else less, meaning)
            yield Change("rule", name, old or None, new or None, effect)


def _effect(old: frozenset[Any], new: frozenset[Any], meaning: str) -> Effect:
    if meaning == _ONE_OF and not (old and new):
        return "narrows" if new else "widens"
    more, less = bool(new - old), bool(old - new)
    if more == less or not meaning:
        return "both"
    return "widens" if more == (meaning != _DEMANDS) else "narrows"


def _windows(before: tuple[Until, ...], after: tuple[Until, ...]) -> Iterator[Change]:
    """A window is the state that it allows; its end may move."""
    old, new = ({_state(window): window.end for window in windows} for windows in (before, after))
    for name in sorted(old.keys() | new.keys()):
        first, last = old.get(name), new.get(name)
        if first != last:
            effect: Effect = "widens" if (last or 0) > (first or 0) else "narrows"
            yield Change("window", name, _time(first), _time(last), effect)


def _state(window: Until) -> str:
    state = {name: value for name, value in window.as_json().items() if name != "end"}
    return f"{len(window.files)} files, {digest_of(state)}"


def _time(end: int | None) -> str | None:
    return format_time(end) if end is not None else None


def _listed(items: frozenset[Any] | None) -> list[Any] | None:
    return sorted(items) if items is not None else None


def _shown(value: Any) -> str:
    if not isinstance(value, list):
        return "yes" if value is True else printable(str(value), 160)
    head = ", ".join(printable(str(item), 160) for item in value[:3])
    return head + (f" and {len(value) - 3} more" if len(value) > 3 else "")
