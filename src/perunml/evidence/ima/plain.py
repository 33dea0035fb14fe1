"""Listed files in the form in which the kernel measures them, so that most lines of a log are judged by one look-up."""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct

from perunml.evidence.rules import ImaRules

AGGREGATE = b"boot_aggregate"
POLICY_FILE = b"/etc/ima/ima-policy"
"""Where systemd and dracut take the IMA policy from (man 7 systemd, `man ima-policy`)."""
POLICY_LOADED, POLICY_WRITTEN = b"ima_policy_loaded", b"ima_policy_written"
"""Names of the lines that hold a policy's text: the rules in force, and what was written (Linux, ima_policy.c, ima_main.c)."""
POLICY_LINES = (POLICY_LOADED, POLICY_WRITTEN)
_U32 = Struct("<I")


def plain_data(files: Mapping[bytes, frozenset[bytes]], rules: ImaRules) -> frozenset[bytes]:
    """The ima-ng template data of every listed file that no rule says more about."""
    policies = policy_digests(rules)
    return frozenset(
        _U32.pack(len(digest)) + digest + _U32.pack(len(path) + 1) + path + b"\0"
        for path, digests in files.items()
        if path not in (AGGREGATE, POLICY_FILE, *POLICY_LINES) and path.decode() not in rules.require
        for digest in digests - policies
    )


def policy_digests(rules: ImaRules) -> frozenset[bytes]:
    """The digests of IMA policies that the rules name, as in a d-ng field."""
    return frozenset(raw_digest(text) for text in rules.policies)


def raw_digest(text: str) -> bytes:
    """``sha256:<hex>`` as in a d-ng field."""
    algorithm, _, value = text.partition(":")
    return algorithm.encode() + b":\0" + bytes.fromhex(value)
