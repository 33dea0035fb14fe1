"""What docs/spec says of the rules is what reads them."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import yaml

from perunml.evidence.composite import BINDER_PCR
from perunml.evidence.snp.rules import SnpRules
from perunml.evidence.tpm.binder import LABEL, PCRS

SPEC = Path(__file__).parents[2] / "docs" / "spec"


def test_the_page_of_amd_names_each_rule() -> None:
    """In the order in which they are declared; its example is read."""
    text = (SPEC / "amd.md").read_text("utf-8")
    table = text.split("| member | meaning |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [each.name for each in fields(SnpRules)]
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert SnpRules.from_json(yaml.safe_load(example)["snp"]).smt


def test_the_page_of_binders_tells_their_numbers() -> None:
    """PCR 15, PCRs 0 to 7, the label."""
    text = (SPEC / "tee.md").read_text("utf-8")
    assert f"PCR {BINDER_PCR} (SHA-256)" in text
    assert f"PCRs {PCRS[0]} to {PCRS[-1]}" in text
    assert f"`{LABEL.rstrip(bytes(1)).decode()}`" in text
