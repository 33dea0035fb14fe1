"""The IMA policy's text: what is measured, in which order, and that nothing but a UUID gets into it."""

from __future__ import annotations

import re

import pytest

from perunml.attesters.ima_policy import ima_policy
from perunml.wire.errors import UsageError

UUID = "5045524e-4d4c-4441-5441-000000000001"
RULE = re.compile(
    r"measure func=[A-Z_]+( mask=MAY_(EXEC|READ))?|dont_measure (fsmagic=0x[0-9a-f]+|fsuuid=[0-9a-f-]{36})"
)


def rules(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_every_line_is_a_rule_or_its_reason() -> None:
    """A line that the kernel does not understand refuses the whole policy; each rule has a comment right above it."""
    lines = ima_policy([UUID]).splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        assert line.startswith("# ") or (RULE.fullmatch(line) and above.startswith("# ")), line
    assert len(rules(ima_policy())) > 20


def test_no_user_is_left_out() -> None:
    """Neither root's files alone nor everybody's but somebody's."""
    assert not re.search("uid=|fowner|euid|gid=", ima_policy())


def test_whatever_is_executed_is_measured_before_anything_is_left_out() -> None:
    """The first rule that fits decides: programs, modules, keys and policies wherever they lie, even on a data disk."""
    found = rules(ima_policy([UUID]))
    first = next(number for number, rule in enumerate(found) if rule.startswith("dont_measure"))
    early = {rule.partition("func=")[2] for rule in found[:first]}
    assert {"BPRM_CHECK", "MODULE_CHECK", "FIRMWARE_CHECK", "POLICY_CHECK", "KEY_CHECK", "KEXEC_CMDLINE"} <= early
    assert found[-1] == "measure func=FILE_CHECK mask=MAY_READ"
    assert f"dont_measure fsuuid={UUID}" in found


def test_the_same_disks_give_the_same_bytes() -> None:
    """In whatever order and case they are told: its digest stands in a baseline."""
    other = "0" * 8 + UUID[8:]
    assert ima_policy([UUID, other]) == ima_policy([other.upper(), UUID, UUID.upper()])
    assert ima_policy() != ima_policy([UUID])


@pytest.mark.parametrize("uuid", ["", "ABCD-1234", f"{UUID}\nmeasure", f"{UUID}\n", " " + UUID, "/dev/sdb"])
def test_a_rule_smuggled_in_as_a_uuid(uuid: str) -> None:
    """Refused, never written."""
    with pytest.raises(UsageError):
        ima_policy([uuid])
