"""A boot log's facts as JSON, for people and auditors. Told, not judged."""

from __future__ import annotations

from perunml.evidence.bootlog.facts import APPLICATIONS, LOADER_FILES, LOADER_TEXT, MOK, OVERRIDES, BootFacts, Sort
from perunml.wire.canonical import Json
from perunml.wire.rules import printable

MAX_TEXT = 2048
"""Characters shown of a command line."""
MAX_LOADED = 512
"""Events told one by one of what loaders read."""
_TOLD = 200
_LOADERS = frozenset({LOADER_TEXT, LOADER_FILES, OVERRIDES, 13, MOK})


def boot_claims(facts: BootFacts) -> dict[str, Json]:
    """What the log says: banks, count of events, registers proven, Secure Boot and its lists, images, command lines, sections, what loaders read,
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
        "loaded": _loaded(facts),
        "exit_boot_services": "Exit Boot Services Returned with Success" in facts.texts(Sort.ACTION),
        "pcrs": {
            bank: {str(index): value.hex() for index, value in sorted(values.items())}
            for bank, values in facts.values.items()
        },
    }


def _loaded(facts: BootFacts) -> list[Json]:
    """What loaders read (PCRs 8, 9, 12 to 14): kernel, initrd, files, commands, lists. `told` are the log's own words for an
    event, which no digest covers."""
    found: list[Json] = []
    for fact in facts.facts:
        if fact.event.register in _LOADERS and fact.sort in (Sort.OTHER, Sort.COMMAND) and len(found) < MAX_LOADED:
            found.append({"pcr": fact.event.register, "digest": fact.digest, "told": _words(fact.event.data)})
    return found


def _words(data: bytes) -> str:
    """The text of an event: a tagged event's (PFP 10.4.2.1: id, size, text) after its head, else all of it."""
    if len(data) > 8 and int.from_bytes(data[4:8], "little") == len(data) - 8:
        data = data[8:]
    return printable(data.rstrip(b"\0").decode("utf-8", "backslashreplace"), _TOLD)
