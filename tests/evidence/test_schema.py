"""The published JSON Schema of baselines says what the types read, as far as a schema can."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from evidence.test_baseline import BROKEN, FULL
from perunml.evidence.baseline import Baseline
from perunml.evidence.schema import baseline_schema
from perunml.wire.dsse import API_VERSION
from perunml.wire.errors import UsageError

SPEC = Path(__file__).parents[2] / "docs" / "spec"
BEYOND = {"an-unsorted-list"}
"""Faults that no schema can name."""
HEAD = {"apiVersion": API_VERSION, "kind": "Baseline"}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """The keywords of JSON Schema that are used there; another one is an error of this test."""
    types = {"object": dict, "array": list, "string": str, "integer": int}
    for word, said in schema.items():
        match word:
            case "$schema" | "title":
                good = True
            case "type":
                good = isinstance(value, types[said]) and not (said == "integer" and isinstance(value, bool))
            case "const":
                good = value == said and type(value) is type(said)
            case "enum":
                good = value in said
            case "pattern":
                good = re.search(said, value) is not None
            case "minLength":
                good = len(value) >= said
            case "maxLength":
                good = len(value) <= said
            case "minItems" | "minProperties":
                good = len(value) >= said
            case "maxItems":
                good = len(value) <= said
            case "uniqueItems":
                good = len({json.dumps(item) for item in value}) == len(value)
            case "items":
                good = all(fits(item, said) for item in value)
            case "required":
                good = set(said) <= set(value)
            case "properties":
                good = all(fits(item, said[name]) for name, item in value.items() if name in said)
            case "propertyNames":
                good = all(fits(name, said) for name in value)
            case "additionalProperties":
                others = {name: item for name, item in value.items() if name not in schema.get("properties", {})}
                good = not others if said is False else all(fits(item, said) for item in others.values())
            case _:
                raise AssertionError(f"{word} is not read here")
        if not good:
            return False
    return True


def test_the_published_schema_is_the_one_that_reads() -> None:
    """docs/spec/baseline.schema.json is generated; `perunml baseline schema` prints it."""
    assert json.loads((SPEC / "baseline.schema.json").read_text()) == baseline_schema()


def test_the_example_is_a_baseline() -> None:
    """It reads, fits the schema, and has the digest that docs/spec/baseline.md tells."""
    example = json.loads((SPEC / "baseline.example.json").read_text())
    assert fits(example, baseline_schema())
    assert Baseline.from_json(example).digest in (SPEC / "baseline.md").read_text()


def test_what_is_read_fits_the_schema() -> None:
    """Every rule at once, and the bare form."""
    assert fits(HEAD | FULL.as_json(), baseline_schema())
    assert fits(HEAD | {"pcrs": {}, "files": {}}, baseline_schema())
    assert not fits(FULL.as_json(), baseline_schema())


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_refused_fits_no_schema(name: str) -> None:
    """Each fault that a schema can name."""
    broken = HEAD | FULL.as_json() | BROKEN[name]
    with pytest.raises(UsageError):
        Baseline.from_json(broken)
    assert fits(broken, baseline_schema()) == (name in BEYOND)


def test_every_rule_stands_in_the_specification() -> None:
    """Its table names each member of the schema."""
    page = (SPEC / "baseline.md").read_text()
    for group in ("boot", "ima", "tpm"):
        for member in baseline_schema()["properties"][group]["properties"]:
            assert f"| `{group}.{member}` |" in page
