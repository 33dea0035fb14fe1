"""The house rules of this room, looked at in its source."""

from __future__ import annotations

import re
from pathlib import Path

import perunml
from perunml.evidence import codes as evidence_codes
from perunml.wire.rules import Rule

SOURCE = Path(perunml.__file__).parent


def users_of(name: str) -> set[str]:
    """Modules that use `name`, but the one that defines it and the forge's."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        relative = path.relative_to(SOURCE)
        if relative.parts[0] != "testing" and re.search(rf"\b{name}\b", path.read_text()):
            found.add(str(relative))
    return found - {"evidence/types.py"}


def test_only_verification_mints_verified_values() -> None:
    """Invariant: the type carries the proof."""
    assert users_of("mint_verified") == {
        "evidence/dcap/verify.py",
        "evidence/nvidia/verify.py",
        "evidence/simulated/verify.py",
        "evidence/snp/verify.py",
        "evidence/tpm/quote.py",
    }


def test_only_appraisal_mints_appraisals() -> None:
    """Invariant: the type carries the proof."""
    assert users_of("mint_appraisal") == {"evidence/appraise.py"}
    assert users_of("_EVIDENCE_TOKEN") == set()


def test_the_forge_enters_by_no_import_of_the_product() -> None:
    """Invariant 7: forged evidence is imported by tests, demo and quickstart only."""
    users = {user for user in users_of(r"perunml\.testing") if not user.startswith("cli/quickstart")}
    assert users == set()


def test_every_rule_of_this_room_is_used() -> None:
    """A rule that nothing raises is no rule."""
    text = "\n".join(path.read_text() for path in (SOURCE / "evidence").rglob("*.py") if path.name != "codes.py")
    names = [name for name, value in vars(evidence_codes).items() if isinstance(value, Rule)]
    assert names
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []
