"""Names in certificates: compared by their bytes, read for people, and for the TCG's attributes of a TPM."""

from __future__ import annotations

from collections.abc import Iterator

from perunml.evidence.tpm.der import SEQUENCE, SET, Der

MAX_ATTRIBUTES = 32
"""Of one name; the longest known have nine."""
MANUFACTURER, MODEL, VERSION = "2.23.133.2.1", "2.23.133.2.2", "2.23.133.2.3"
"""TPMManufacturer, TPMModel, TPMVersion (TCG EK Credential Profile 2.5, 3.2.9)."""
_SHORT = {
    "2.5.4.3": "CN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
}
_STRINGS = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be"}
"""UTF8String, PrintableString, TeletexString, IA5String, BMPString."""
MANUFACTURERS = {
    # Vendor IDs of the TCG TPM Vendor ID Registry: name, and whether its TPMs are chips of their own
    "414D4400": ("AMD", "firmware"),
    "41544D4C": ("Atmel", "discrete"),
    "4252434D": ("Broadcom", "discrete"),
    "474F4F47": ("Google", "virtual"),
    "49424D00": ("IBM", ""),
    "49465800": ("Infineon", "discrete"),
    "494E5443": ("Intel", "firmware"),
    "4D534654": ("Microsoft", ""),
    "4E534700": ("NSING", "discrete"),
    "4E544300": ("Nuvoton", "discrete"),
    "4E545A00": ("Nationz", "discrete"),
    "51434F4D": ("Qualcomm", "firmware"),
    "524F4343": ("Rockchip", "discrete"),
    "53544D20": ("STMicroelectronics", "discrete"),
    "57454300": ("Winbond", "discrete"),
}


def attributes(name: bytes) -> Iterator[tuple[str, str]]:
    """(object identifier, text) of a Name in DER, in its order. Raises `EvidenceRefusal` (non_canonical).

    The members of a SET are not asked to be in DER's order: one vendor's roots and leaves have them otherwise
    (docs/decisions/0017).
    """
    outer = Der(name, "a name")
    sets = outer.within(SEQUENCE)
    outer.end()
    count = 0
    while sets.left:
        members = sets.within(SET)
        while members.left:
            count += 1
            if count > MAX_ATTRIBUTES:
                raise members.bad("too many attributes")
            pair = members.within(SEQUENCE)
            oid, value = pair.oid(), pair.any()
            pair.end()
            yield oid, value.body.decode(_STRINGS.get(value.tag, "latin-1"), "replace")


def readable(name: bytes) -> str:
    """A Name for people; nothing is decided by it."""
    return ", ".join(f"{_SHORT.get(oid, oid)}={text}" for oid, text in attributes(name))


def manufacturer(text: str) -> tuple[str, str]:
    """(name, kind) of a TPMManufacturer's ``id:XXXXXXXX``: unknown ones are told as they are, of no known kind."""
    code = text.removeprefix("id:").upper()
    return MANUFACTURERS.get(code, (text, ""))


def same_name(one: bytes, other: bytes) -> bool:
    """Whether two Names say the same: each attribute's text, in whichever string type it is written (RFC 5280, 7.1). An
    issuer was re-issued with other types than its certificates name it by."""
    return one == other or list(attributes(one)) == list(attributes(other))
