"""Imports the JSON runtime policy of Keylime (keylime.readthedocs.io, runtime policies, version 1).

Carried over is what has the very same meaning here. Everything else is told line by line, and what is told is not allowed:
leaving something out can only refuse more.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from perunml.client.codes import BASELINE_SOURCE
from perunml.evidence.rules import ImaRules, is_path
from perunml.wire.canonical import load_json
from perunml.wire.digests import digest
from perunml.wire.errors import refuse
from perunml.wire.rules import printable

MAX_POLICY = 256 * 1024 * 1024
"""Bytes: a policy of a million files."""
_ALGORITHMS = {64: "sha256", 96: "sha384", 128: "sha512"}
_HEX = frozenset("0123456789abcdef")
_SILENT = ("meta", "release")
"""Who made the policy, and when: nothing to judge by."""


@dataclass(frozen=True, slots=True)
class Imported:
    """`files` and `rules` as carried over; `notes` has a line for each thing that was not."""

    files: dict[str, set[str]]
    rules: ImaRules
    notes: tuple[str, ...]


def import_keylime(data: bytes) -> Imported:
    """Raises `UsageError` (malformed, baseline_source) for what is no runtime policy."""
    policy = load_json(data, limit=MAX_POLICY)
    if not isinstance(policy, dict) or not isinstance(policy.get("digests"), dict):
        raise refuse(BASELINE_SOURCE, "not a runtime policy", expected="a JSON object with `digests`")
    notes: list[str] = []
    files = _files(policy["digests"], notes)
    keys = frozenset(_verification_keys(policy.get("verification-keys"), notes))
    keyrings = frozenset(_keyrings(policy.get("keyrings"), notes))
    notes += _left_out(policy)
    return Imported(files, ImaRules(keys=keys, keyrings=keyrings), tuple(notes))


def _files(digests: dict[str, Any], notes: list[str]) -> dict[str, set[str]]:
    files: dict[str, set[str]] = {}
    for path, listed in digests.items():
        if path == "boot_aggregate":
            notes.append("digests: boot_aggregate is not carried over: it is computed from the quoted PCRs")
            continue
        if not is_path(path) or not isinstance(listed, list) or not listed:
            notes.append(f"digests: {printable(path, 200)} is not carried over: no path with a list of digests")
            continue
        found = {name for item in listed if (name := _digest(item)) is not None}
        if len(found) < len(set(map(str, listed))):
            notes.append(
                f"digests: {printable(path, 200)}: digests that are not SHA-256, 384 or 512 are not carried over"
            )
        if found:
            files[path] = found
    return files


def _digest(item: Any) -> str | None:
    text = item.lower() if isinstance(item, str) else ""
    algorithm = _ALGORITHMS.get(len(text)) if set(text) <= _HEX else None
    return f"{algorithm}:{text}" if algorithm is not None else None


def _verification_keys(value: Any, notes: list[str]) -> Iterator[str]:
    """A JSON text with `pubkeys` (base64 of DER), as exported keyrings are, or a list of PEM or base64 texts."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            value = [value]
    if isinstance(value, dict):
        value = value.get("pubkeys")
    if value in (None, "", []):
        return
    if not isinstance(value, list):
        notes.append("verification-keys: not carried over: of no known form")
        return
    for number, text in enumerate(value, 1):
        spki = _spki(text)
        if spki is None:
            notes.append(f"verification-keys: key {number} is not carried over: no public key in DER or PEM")
        else:
            yield digest(spki)


def _spki(text: Any) -> bytes | None:
    try:
        if "-----BEGIN" in text:
            key = load_pem_public_key(text.encode())
        else:
            key = load_der_public_key(base64.b64decode(text, validate=True))
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm, binascii.Error):
        return None


def _keyrings(value: Any, notes: list[str]) -> Iterator[str]:
    for name, listed in value.items() if isinstance(value, dict) else ():
        for item in listed if isinstance(listed, list) else ():
            found = _digest(item)
            if found is not None and found.startswith("sha256:"):
                notes.append(
                    f"keyrings: {found} may enter any measured keyring: {printable(name, 64)} is not told apart"
                )
                yield found
            else:
                notes.append(
                    f"keyrings: {printable(str(item), 150)} of {printable(name, 64)} is not carried over: no SHA-256"
                )


def _left_out(policy: dict[str, Any]) -> Iterator[str]:
    excludes = policy.get("excludes")
    for item in excludes if isinstance(excludes, list) else ():
        yield f"excludes: {printable(str(item), 200)} is not carried over: a baseline lists files and has no patterns"
    ima = policy.get("ima")
    for name, value in ima.items() if isinstance(ima, dict) else ():
        if name == "log_hash_alg":
            yield f"ima.log_hash_alg: {printable(str(value), 20)} is not carried over: the quoted banks say which hash counts"
        elif name == "ignored_keyrings":
            for item in value if isinstance(value, list) else ():
                yield f"ima.ignored_keyrings: {printable(str(item), 100)} is not carried over: its keys must be listed"
        elif value not in (None, {}, [], ""):
            yield f"ima.{printable(name, 60)} is not carried over"
    buffers = policy.get("ima-buf")
    for name in buffers if isinstance(buffers, dict) else ():
        yield f"ima-buf: {printable(name, 200)} is not carried over"
    known = {*_SILENT, "digests", "excludes", "ima", "ima-buf", "keyrings", "verification-keys"}
    for name in policy:
        if name not in known:
            yield f"{printable(name, 100)} is not carried over: unknown here"
