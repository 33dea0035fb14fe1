"""What narrows: the closed list of fields that have an order, and in which direction less is allowed.

A field that is not listed here widens whatever changes in it. `tests/agreements/test_diff.py` holds the list to its promise: what
`release.decide` allows under a version that only narrows, it allows under the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from perunml.agreements.forms import Part, same
from perunml.agreements.jobs import PRINTED, AnyJob, Choice, Fixed, Output, Range, combined
from perunml.agreements.profiles import AnyOf, AnyProfile, alternatives
from perunml.wire.quantities import format_size
from perunml.wire.timestamps import format_time


@dataclass(frozen=True, slots=True)
class Field:
    """One field that differs: where, what it was and is in words, and whether less is allowed than before. `hosting`: less of it
    only keeps runs from starting or going on, as a job's operator can by switching its machines off; what was made before leaves as
    it did."""

    path: str
    before: str
    after: str
    narrows: bool
    hosting: bool = True


Compare = Callable[[str, Any, Any], Iterator[Field]]
NONE = "nothing"


def alike(one: Any, other: Any) -> bool:
    """Equal as JSON is: for Python true is 1, for code that gets a parameter it is not."""
    if isinstance(one, Part):
        return type(one) is type(other) and all(
            alike(getattr(one, name), getattr(other, name)) for name in type(one).model_fields
        )
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and set(one) == set(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return isinstance(other, tuple) and len(one) == len(other) and all(map(alike, one, other))
    return same(one, other)


def seconds(value: int) -> str:
    """A span as people write it."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if value and value % size == 0:
            return f"{value // size}{unit}"
    return f"{value}s"


def _less(words: Callable[[Any], str] = str) -> Compare:
    """A number, size, span or time of which less is narrower."""

    def compare(path: str, before: Any, after: Any) -> Iterator[Field]:
        yield Field(path, words(before), words(after), after < before)

    return compare


def _until(path: str, before: int, after: int) -> Iterator[Field]:
    """Outputs leave until the last `until`: not for an operator to shorten."""
    yield Field(path, format_time(before), format_time(after), after < before, hosting=False)


def _at_most(path: str, before: int | None, after: int | None) -> Iterator[Field]:
    """Less of it, or a bound where there was none."""
    narrows = after is not None and (before is None or after < before)
    words = ["any" if value is None else str(value) for value in (before, after)]
    yield Field(path, words[0], words[1], narrows)


def _requests(path: str, before: tuple[int, int], after: tuple[int, int]) -> Iterator[Field]:
    """Fewer in the same window; another window is another limit."""
    same = before[1] == after[1]
    words = [f"{count} in {seconds(window)}" for count, window in (before, after)]
    yield Field(path, words[0], words[1], same and after[0] < before[0])


def _tenancy(path: str, before: str, after: str) -> Iterator[Field]:
    yield Field(path, before, after, (before, after) == ("shared", "exclusive"))


def _within(before: Range | Choice | Fixed, after: Range | Choice | Fixed) -> bool:
    """Whether every value that `after` allows was allowed."""
    if isinstance(after, Fixed):
        return before.allows(after.value)
    if isinstance(after, Choice):
        return all(before.allows(value) for value in after.one_of)
    if not isinstance(before, Range) or (before.whole and not after.whole):
        return False
    low = before.min is None or (after.min is not None and after.min >= before.min)
    return low and (before.max is None or (after.max is not None and after.max <= before.max))


def _parameters(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Field]:
    """A parameter that is new, or gone, is another contract with the code."""
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if alike(old, new):
            continue
        # The same values in another form are another contract: a run may leave out a fixed one.
        narrows = old is not None and new is not None and _within(old, new) and not _within(new, old)
        yield Field(f"{path}.{name}", old.in_words() if old else NONE, new.in_words() if new else NONE, narrows)


def _combinations(path: str, before: Any, after: Any) -> Iterator[Field]:
    """Each that is left says at least what one of those before said, and not the other way round; or there are some where there were
    none."""
    narrows = bool(after) and (
        before is None
        or (all(combined(before, one) for one in after) and not all(combined(after, one) for one in before))
    )
    words = ["any" if some is None else "; ".join(written(one) for one in some) for some in (before, after)]
    yield Field(path, words[0], words[1], narrows)


def _approvers(path: str, before: Any, after: Any) -> Iterator[Field]:
    """One more who must approve narrows; one fewer takes a vote from somebody."""
    old, new = (set(rule.approve) if rule else set() for rule in (before, after))
    yield Field(path, ", ".join(sorted(old)) or "nobody", ", ".join(sorted(new)) or "nobody", old < new)


_LEVELS: Mapping[str | None, str] = {
    None: "a file",
    "error-class": "error-class",
    "full": f"full ({PRINTED})",
}


def _level(path: str, before: Any, after: Any) -> Iterator[Field]:
    """The class of an error where the whole log left."""
    yield Field(path, _LEVELS[before], _LEVELS[after], (before, after) == ("full", "error-class"))


def _declared(output: Output | None) -> str:
    if output is None:
        return NONE
    return f"{PRINTED}, to {', '.join(output.to)}" if output.level == "full" else "declared"


def _outputs(path: str, before: Mapping[str, Output], after: Mapping[str, Output]) -> Iterator[Field]:
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            yield Field(f"{path}.{name}", _declared(old), _declared(new), False)
        else:
            yield from (replace(found, hosting=False) for found in compared(f"{path}.{name}", old, new, _OUTPUT))


def _rarer(path: str, before: int, after: int) -> Iterator[Field]:
    yield Field(path, seconds(before), seconds(after), after > before)


def _checkpoints(path: str, before: Any, after: Any) -> Iterator[Field]:
    """Smaller and rarer ones narrow; having some, or none, is another contract with the code."""
    if before is None or after is None:
        yield Field(path, NONE if before is None else "some", NONE if after is None else "some", False)
    else:
        yield from compared(path, before, after, {"max_size": _less(format_size), "every": _rarer})


def _limits(path: str, before: Any, after: Any) -> Iterator[Field]:
    if type(before) is not type(after):
        yield Field(path, "a training's", "a service's", False)
    else:
        yield from compared(path, before, after, _LIMITS)


def compared(path: str, before: Any, after: Any, ordered: Mapping[str, Compare]) -> Iterator[Field]:
    """Every field in which two values of one type differ; those that are not `ordered` widen."""
    for name in type(before).model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if alike(old, new):
            continue
        if name in ordered:
            yield from ordered[name](f"{path}.{name}", old, new)
        else:
            yield Field(f"{path}.{name}", written(old), written(new), False)


def written(value: Any) -> str:
    """A value in a line."""
    if value is None or value == () or value == {}:
        return NONE
    if isinstance(value, Mapping):
        return ", ".join(f"{key} -> {written(item)}" for key, item in value.items())
    if isinstance(value, (tuple, list)):
        return ", ".join(map(written, value))
    return str(value)


_LIMITS: Mapping[str, Compare] = {
    "runs": _less(),
    "until": _until,
    "wall": _less(seconds),
    "resumes": _less(),
    "requests": _requests,
    "batch": _at_most,
    "top_k": _at_most,
    "digits": _at_most,
}
_OUTPUT: Mapping[str, Compare] = {"max_size": _less(format_size), "release": _approvers, "level": _level}
_JOB: Mapping[str, Compare] = {
    "parameters": _parameters,
    "combinations": _combinations,
    "limits": _limits,
    "lease": _less(seconds),
    "tenancy": _tenancy,
    "outputs": _outputs,
    "checkpoints": _checkpoints,
}
"""The ordered fields of jobs, trainings and services."""


def job_fields(path: str, before: AnyJob, after: AnyJob) -> Iterator[Field]:
    """In what a job differs."""
    if type(before) is not type(after):
        yield Field(path, "a training", "a service", False)
    else:
        yield from compared(path, before, after, _JOB)


def role_fields(path: str, before: AnyProfile | AnyOf, after: AnyProfile | AnyOf) -> Iterator[Field]:
    """In what a host's role differs: fewer alternatives narrow, and of a profile fewer machines and a newer driver."""
    old, new = alternatives(before), alternatives(after)
    if all(any(alike(item, known) for known in old) for item in new) and len(new) < len(old):
        yield Field(path, f"{len(old)} alternatives", f"{len(new)} of them", True)
    elif len(old) == len(new) and all(type(one) is type(other) for one, other in zip(old, new, strict=True)):
        for place, (one, other) in enumerate(zip(old, new, strict=True)):
            where = f"{path}.any_of.{place}" if isinstance(after, AnyOf) else path
            yield from compared(where, one, other, _PROFILE)
    else:
        yield Field(path, _profiles(old), _profiles(new), False)


def _machines(path: str, before: tuple[str, ...], after: tuple[str, ...]) -> Iterator[Field]:
    """Fewer of those that were named; or some, where any would do."""
    narrows = bool(after) and (not before or set(after) < set(before))
    yield Field(path, ", ".join(before) or "any", ", ".join(after) or "any", narrows)


def _driver(path: str, before: str | None, after: str | None) -> Iterator[Field]:
    def number(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(".")))

    narrows = after is not None and (before is None or number(after) > number(before))
    yield Field(path, before or "any", after or "any", narrows)


_PROFILE: Mapping[str, Compare] = {"machines": _machines, "min_driver": _driver}


def _profiles(found: tuple[AnyProfile, ...]) -> str:
    return " or ".join(profile.profile for profile in found)
