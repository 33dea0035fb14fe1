"""A boot log's facts as JSON, for people and auditors. Told, not judged."""

from __future__ import annotations

from perunml.evidence.bootlog.facts import APPLICATIONS, BootFacts, Sort
from perunml.wire.canonical import Json
from perunml.wire.rules import printable

MAX_TEXT = 2048
"""Characters shown of a command line."""


def boot_claims(facts: BootFacts) -> dict[str, Json]:
    """What the log says: banks, count of events, registers proven, Secure Boot and its lists, images, command lines, sections,
    the registers' values as replayed (hex)."""
    lists: dict[str, Json] = {}
    for name in ("PK", "KEK", "db", "dbx"):
        if name in facts.variables:
            found = facts.signatures(name)
            lists[name.lower()] = None if found is None else list(found)
    sections = {fact.text: fact.digest for fact in facts.facts if fact.sort is Sort.SECTION}
    return {
        "bank": facts.bank,
        "banks": list(facts.log.banks),
        "events": len(facts.log.events),
        "proven": sorted(facts.proven),
        "secure_boot": facts.secure_boot,
        **lists,
        "authorities": list(facts.texts(Sort.AUTHORITY)),
        "applications": [fact.digest for fact in facts.of(APPLICATIONS) if fact.sort is Sort.OTHER],
        "cmdline": list(dict.fromkeys(printable(text, MAX_TEXT) for text in facts.texts(Sort.CMDLINE))),
        "sections": sections,
        "exit_boot_services": "Exit Boot Services Returned with Success" in facts.texts(Sort.ACTION),
        "pcrs": {
            bank: {str(index): value.hex() for index, value in sorted(values.items())}
            for bank, values in facts.values.items()
        },
    }
