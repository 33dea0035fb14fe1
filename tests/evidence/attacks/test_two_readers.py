"""Attacks on the two readers of Intel's evidence: certificates that one of them sees and the other does not."""

from __future__ import annotations

import json
from functools import cache

import pytest

from perunml.evidence.dcap import collateral
from perunml.evidence.dcap.collateral import read_collateral
from perunml.evidence.dcap.verify import verify_dcap
from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.testing.dcap import NOW, ForgedIntel, Quoting
from perunml.wire.errors import EvidenceRefusal

END = "-----END CERTIFICATE-----"


@cache
def intel() -> ForgedIntel:
    return ForgedIntel()


def relabelled(chain: str, label: str, shown: str = "") -> str:
    """The first certificate under another label, which one reader passes over, and one to be seen in its place."""
    first, rest = chain.split(END, 1)
    return first.replace("BEGIN CERTIFICATE", f"BEGIN {label}") + f"-----END {label}-----\n" + shown + rest.lstrip()


def codes(chain: str, item: bytes | None = None) -> set[str]:
    quote = intel().sgx_quote(quoting=Quoting("sgx", 3, chain=chain.encode()) if chain else None)
    held = item or intel().collateral("sgx")
    try:
        verify_dcap(quote, "sgx", Endorsements(Collateral(dcap=(held,)), (intel().root,)), now=NOW)
    except EvidenceRefusal as exc:
        return {reason.code for reason in exc.reasons}
    return set()


def test_a_chain_as_intel_writes_it_is_read() -> None:
    """ACCEPT: with line ends of either kind, empty lines between the certificates, and the NUL at the end that Intel's tools write."""
    chain = intel().pck.chain.decode()
    spaced = chain.replace(f"{END}\n", f"{END}\n\n")
    for text in (chain, chain.replace("\n", "\r\n"), chain + "\0", spaced, chain.rstrip()):
        assert codes(text) == set()


@pytest.mark.parametrize("label", ["X509 CERTIFICATE", "TRUSTED CERTIFICATE", "ANYTHING"])
def test_another_platforms_certificate_is_shown_to_one_reader(label: str) -> None:
    """The key's own certificate hides under another label; a certificate that it has nothing to do with stands beside it."""
    shown = ForgedIntel(ca=intel().ca).pck.chain.decode().split(END)[0] + f"{END}\n"
    assert codes(relabelled(intel().pck.chain.decode(), label, shown)) == {"certificate_chain"}


@pytest.mark.parametrize("name", ["tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain"])
def test_collaterals_signer_hides_from_one_reader(name: str) -> None:
    """Whoever signed the collateral is not among what is looked at for dates and revocation."""
    item = json.loads(intel().collateral("sgx"))
    item[name] = relabelled(item[name], "ANYTHING")
    assert codes("", json.dumps(item).encode()) == {"collateral_invalid"}


@pytest.mark.parametrize("more", ["words\n", "-----BEGIN ", "Proc-Type: 4\n\n"])
def test_more_than_certificates_stands_in_a_chain(more: str) -> None:
    """Before, between and inside of the certificates: what two readers may take for different things is refused."""
    chain = intel().pck.chain.decode()
    begin = "-----BEGIN CERTIFICATE-----\n"
    for text in (
        more + chain,
        chain.replace(f"{END}\n", f"{END}\n{more}"),
        chain.replace(begin, begin + more),
        chain + more,
    ):
        assert codes(text) & {"certificate_chain", "non_canonical"}


def test_the_collateral_brings_another_platforms_chain() -> None:
    """The library would read the chain in the item, and we the one in the quote: the quote's alone is read."""
    mine, other = intel(), ForgedIntel(ca=intel().ca)
    item = json.loads(mine.collateral("sgx")) | {"pck_certificate_chain": mine.pck.chain.decode()}
    assert codes("", json.dumps(item).encode()) == set()
    # signed by this platform's key, and the chain in the quote is another's: which key signed is for that chain to say
    assert codes(other.pck.chain.decode(), json.dumps(item).encode()) == {"qe_identity"}
    item["pck_certificate_chain"] = other.pck.chain.decode()
    assert codes("", json.dumps(item).encode()) == set()


def test_d_a_set_of_more_items_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """D: what a set holds is read once, odd items as well, and not for each quote."""
    listed = (intel().collateral("sgx"), *(f'{{"odd": {number}}}'.encode() for number in range(collateral.KEPT + 1)))
    read: list[bytes] = []
    monkeypatch.setattr(collateral, "read_collateral", lambda data: (read.append(data), read_collateral(data))[1])
    for _ in range(2):
        verify_dcap(intel().sgx_quote(), "sgx", Endorsements(Collateral(dcap=listed), (intel().root,)), now=NOW)
    assert len(read) == len(listed)
