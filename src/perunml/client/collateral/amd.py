"""AMD's certificates and revocation lists from the Key Distribution Service (publication 57230, chapter 4)."""

from __future__ import annotations

from dataclasses import dataclass

from perunml.client.collateral.codes import COLLATERAL_LACKING
from perunml.client.collateral.web import Web, strange
from perunml.evidence.pem import split
from perunml.evidence.snp.keys import HARDWARE, read_key
from perunml.evidence.snp.parse import VLEK, Tcb, parse_report, read_tcb
from perunml.evidence.snp.roots import ARKS
from perunml.evidence.x509 import read_certificate, read_crl
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import PerunError, refuse

PRODUCTS = frozenset(ARKS.values())


@dataclass(frozen=True, slots=True)
class Chips:
    """A product line, and of it one chip at one firmware, or none in particular.

    chip   hexadecimal, as the service has it; empty for the line's own certificates alone
    vlek   the line's certificates for clouds' keys (VLEK) instead of chips' (VCEK)
    """

    product: str
    vlek: bool = False
    chip: str = ""
    tcb: Tcb | None = None

    def __str__(self) -> str:
        return f"{self.product} {'VLEK' if self.vlek else self.chip or 'VCEK'}"


def chip_of(report: bytes, product: str = "") -> Chips:
    """Whose certificates a report needs; `product` for reports of version 2, which do not tell. A cloud's key (VLEK) is
    certified to the cloud, which hands the certificate to its hosts: the service does not have it. Raises `EvidenceRefusal`:
    it is no report; `UsageError` (collateral_lacking)."""
    raw = parse_report(report)
    line = raw.product or product
    if not line:
        raise refuse(COLLATERAL_LACKING, "a report of version 2 does not tell its product", expected="--product")
    if raw.signing_key == VLEK:
        return Chips(line, vlek=True)
    if raw.chip_masked or not any(raw.chip_id):
        raise refuse(
            COLLATERAL_LACKING,
            "the report hides its chip: the host has to send its certificate",
            seen="a masked chip id",
        )
    return Chips(line, chip=raw.chip_id[: HARDWARE[line]].hex(), tcb=read_tcb(raw.reported_tcb, line))


def read_product(text: str) -> Chips:
    """Raises `UsageError` (malformed)."""
    if text not in PRODUCTS:
        raise refuse(MALFORMED, "not a product line", expected=", ".join(sorted(PRODUCTS)), seen=text)
    return Chips(text)


def fetch_amd(chips: Chips, web: Web) -> tuple[list[bytes], bytes]:
    """(certificates, revocation list), DER. Raises `Unreachable` (vendor_answer)."""
    base = f"{web.services.kds.rstrip('/')}/{'vlek' if chips.vlek else 'vcek'}/v1/{chips.product}"
    authority = f"SEV-VLEK-{chips.product}" if chips.vlek else f"SEV-{chips.product}"
    try:
        chain = split(web.get(f"{base}/cert_chain").body)
    except PerunError as exc:
        raise (
            exc if exc.code == "vendor_answer" else strange(f"{base}/cert_chain", "none", "certificates in PEM")
        ) from None
    _named(chain, [authority, f"ARK-{chips.product}"], f"{base}/cert_chain")
    crl = web.get(f"{base}/crl").body
    try:
        read_crl(crl)
    except PerunError:
        raise strange(f"{base}/crl", "another answer", "a revocation list in DER") from None
    if chips.tcb is None:
        return chain, crl
    parts = {"fmcSPL": chips.tcb.fmc, "blSPL": chips.tcb.bootloader, "teeSPL": chips.tcb.tee, "snpSPL": chips.tcb.snp}
    parts["ucodeSPL"] = chips.tcb.microcode
    query = "&".join(f"{name}={value:02}" for name, value in parts.items() if value >= 0)
    url = f"{base}/{chips.chip}?{query}"
    leaf = web.get(url).body
    _named([leaf], ["SEV-VCEK"], url)
    told = read_key(read_certificate(leaf))
    if (told.hardware.hex(), told.tcb) != (chips.chip, chips.tcb):
        raise strange(url, f"one of chip {told.hardware.hex()}, {told.tcb}", "a certificate of this chip and firmware")
    return [leaf, *chain], crl


def _named(ders: list[bytes], names: list[str], where: str) -> None:
    """Whether these are the certificates of these names; whether they are genuine is judged with the evidence."""
    try:
        found = [common_name(der) for der in ders]
    except PerunError:
        found = ["something else"]
    if found != names:
        raise strange(where, ", ".join(found), f"certificates of {', '.join(names)}")


def common_name(der: bytes) -> str:
    """The subject's common name, or empty. Raises `EvidenceRefusal` (non_canonical)."""
    from cryptography.x509 import NameOID

    found = read_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""
