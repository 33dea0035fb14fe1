"""Listed files in the form in which the kernel measures them, one row a file and digest: what judging needs, with the
readable form made only when somebody asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from struct import Struct
from typing import TypeVar

from perunml.evidence.ima.plain import AGGREGATE, POLICY_FILE, POLICY_LINES, policy_digests
from perunml.evidence.rules import ImaRules

T = TypeVar("T", str, bytes)
_U32 = Struct("<I")


def rows_of(files: Mapping[bytes, frozenset[bytes]]) -> list[bytes]:
    """ima-ng template data of every path and digest, sorted."""
    return sorted(
        _U32.pack(len(digest)) + digest + _U32.pack(len(path) + 1) + path + b"\0"
        for path, digests in files.items()
        for digest in digests
    )


def _taken_apart(row: bytes) -> tuple[bytes, bytes]:
    size = _U32.unpack_from(row)[0]
    return row[8 + size : -1], row[4 : 4 + size]


class _Late(Mapping[T, frozenset[T]]):
    """A mapping that is made when it is first looked into."""

    def __init__(self, rows: list[bytes]) -> None:
        self._rows = rows

    @cached_property
    def _made(self) -> dict[T, frozenset[T]]:
        found: dict[T, set[T]] = {}
        for row in self._rows:
            path, digest = self._read(*_taken_apart(row))
            found.setdefault(path, set()).add(digest)
        return {path: frozenset(digests) for path, digests in found.items()}

    def _read(self, path: bytes, digest: bytes) -> tuple[T, T]:
        raise AssertionError("each kind of mapping reads a row its own way")

    def __getitem__(self, path: T) -> frozenset[T]:
        return self._made[path]

    def __iter__(self) -> Iterator[T]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


class RawFiles(_Late[bytes]):
    """As `Allowed.files`."""

    def _read(self, path: bytes, digest: bytes) -> tuple[bytes, bytes]:
        return path, digest


class Rows(_Late[str]):
    """As `Baseline.files`."""

    def _read(self, path: bytes, digest: bytes) -> tuple[str, str]:
        algorithm, _, value = digest.partition(b":\0")
        return path.decode(), f"{algorithm.decode()}:{value.hex()}"

    def raw(self) -> RawFiles:
        return RawFiles(self._rows)

    def plain(self, rules: ImaRules) -> frozenset[bytes]:
        """As `plain_data` of the same files: the rows that no rule says more about."""
        special = {AGGREGATE, POLICY_FILE, *POLICY_LINES, *(path.encode() for path in rules.require)}
        ends = tuple(_U32.pack(len(path) + 1) + path + b"\0" for path in special)
        policies = tuple(_U32.pack(len(digest)) + digest for digest in policy_digests(rules))
        # what only ends like a special path's row is left to the slower way, which says the same of it
        return frozenset(row for row in self._rows if not row.endswith(ends) and not row.startswith(policies))
