"""Judges each captured file of Intel's evidence: quotes with the collateral of their time, event logs with their quote, pieces of
collateral in the place of the same piece of a real item."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from evidence.vectors import FOLDER
from perunml.evidence.bootlog.rtmr import read_rtmr_log
from perunml.evidence.dcap.collateral import read_collateral
from perunml.evidence.offline.dcap import DcapFiles, check_dcap, read_bundle
from perunml.evidence.offline.findings import Checked
from perunml.wire.errors import PerunError
from perunml.wire.timestamps import format_time

Tee = Literal["sgx", "tdx"]
BASES = {
    "sgx": "sgx__Phala-Network__dcap-qvl__sgx_quote@2025-06-19",
    "tdx": "tdx__Phala-Network__dcap-qvl__tdx_quote@2026-03-01",
}
"""Bundles that are accepted, in which pieces of collateral are put."""
COS = FOLDER / "tdx" / "google__go-tdx-guest" / "cos-113-tdx-quote.dat"
COS_LOG = COS.with_name("ccel_data.dat")
ITEM = {"tcbInfo": "tcb_info", "enclaveIdentity": "qe_identity", "qeIdentity": "qe_identity"}
"""Members of the vendor's answers, and of an item."""
PIECES = {
    "pck_crl.der": "pck_crl", "pckcrl": "pck_crl", "root_ca_crl.der": "root_ca_crl", "rootcrl.der": "root_ca_crl",
    "pck_crl_issuer_chain.pem": "pck_crl_issuer_chain", "qe_identity_issuer_chain.pem": "qe_identity_issuer_chain",
    "tcb_info_issuer_chain.pem": "tcb_info_issuer_chain", "qe_identity_cert.pem": "qe_identity_issuer_chain",
    "tcb_info_v3_fmspc_00606A000000_certs.pem": "tcb_info_issuer_chain",
    "tcb_info_v3_fmspc_00606A000000_certs_bad.pem": "tcb_info_issuer_chain",
}  # fmt: skip
LISTS = ("pck_crl", "root_ca_crl")


class Verdict(NamedTuple):
    """How a file was judged, what came of it, and the codes of the reasons or what was found."""

    judged: str
    verdict: str
    told: str


def files() -> Iterator[Path]:
    """Every captured file, the bundles last."""
    for folder in ("sgx", "tdx", "ccel", "dcap-bundles"):
        yield from sorted(path for path in (FOLDER / folder).rglob("*") if path.is_file())


def judge_file(path: Path) -> Verdict:
    """What the offline check says of it."""
    folder = path.relative_to(FOLDER).parts[0]
    if folder == "dcap-bundles":
        return _bundle(path)
    if folder == "ccel" or path.name.startswith("ccel_"):
        return _log(path)
    tee: Tee = "sgx" if folder == "sgx" else "tdx"
    data = path.read_bytes()
    if b'"pck_crl_issuer_chain"' in data:
        return _whole(path, tee)
    if path.suffix == ".json" or path.name.startswith("sample_"):
        return _answer(tee, data.decode())
    if path.name in PIECES:
        return _piece(path, tee, data)
    return _quote(tee, data)


@cache
def bundle(name: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((FOLDER / "dcap-bundles" / f"{name}.json").read_text())
    return made


@cache
def collateral_for(tee: str, fmspc: str) -> tuple[str, str]:
    """The name and the day of the newest bundle whose collateral is for this kind of platform, of accepted ones where there are
    some; empty: there is none."""
    found = []
    for path in sorted((FOLDER / "dcap-bundles").glob(f"{tee}__*.json")):
        made, day = bundle(path.stem), path.stem.rpartition("@")[2]
        if made["fmspc"].upper() == fmspc.upper():
            found.append((made["dcap_qvl_0_7_0"]["result"] == "OK", day, path.stem))
    best = max((item[:2] for item in found), default=(False, ""))
    return next((name for *item, name in found if tuple(item) == best), ""), best[1]


def _bundle(path: Path) -> Verdict:
    made = read_bundle(path.read_bytes())
    tee: Tee = "sgx" if path.name.startswith("sgx") else "tdx"
    return _told("its own collateral and time", check_dcap(DcapFiles(made.quote, [made.collateral]), tee, now=made.now))


def _whole(path: Path, tee: Tee) -> Verdict:
    """An item with the quote beside it, at the first second at which all of it holds."""
    stem = path.name.removesuffix("_collateral.json")
    beside = next(path.with_name(name) for name in (stem, f"{stem}_hex.txt") if path.with_name(name).exists())
    now = max(part.issued for part in read_collateral(path.read_bytes()).parts)
    checked = check_dcap(DcapFiles(beside.read_bytes(), [path.read_bytes()]), tee, now=now)
    return _told(f"with {beside.name}, at {format_time(now)}", checked)


def _quote(tee: Tee, data: bytes) -> Verdict:
    unknown = check_dcap(DcapFiles(data), tee, now=0)
    fmspc = (unknown.claims["quote"] or {}).get("fmspc", "")
    name, day = collateral_for(tee, fmspc)
    if not name:
        return _told("alone" if not fmspc else "no collateral for it", unknown)
    made = bundle(name)
    item = json.dumps(made["collateral"]).encode()
    log = COS_LOG.read_bytes() if data == COS.read_bytes() else None
    checked = check_dcap(DcapFiles(data, [item], log), tee, now=made["now_secs"])
    return _told(f"with collateral of {day}{' and its event log' if log else ''}", checked)


def _log(path: Path) -> Verdict:
    try:
        facts = read_rtmr_log(path.read_bytes(), "")
    except PerunError as exc:
        return Verdict("alone", "refused", ", ".join(dict.fromkeys(reason.code for reason in exc.reasons)))
    return Verdict("alone", "read", f"{len(facts.log.events)} events")


def _answer(tee: Tee, text: str) -> Verdict:
    """TCB info or QE identity, in the vendor's envelope with its signature."""
    try:
        value = json.loads(text)
        name = next(name for name in ITEM if name in value)
        at = text.index("{", text.index(f'"{name}"'))
        _, end = json.JSONDecoder().raw_decode(text, at)
        changes = {ITEM[name]: text[at:end], f"{ITEM[name]}_signature": value.get("signature", "")}
        fmspc = value[name].get("fmspc", "") if isinstance(value[name], dict) else ""
    except (ValueError, StopIteration):
        changes, fmspc = {"qe_identity" if "dentity" in text else "tcb_info": text}, ""
    found, _ = collateral_for(tee, fmspc if isinstance(fmspc, str) else "")
    return _in_place(found or BASES[tee], tee, changes)


def _piece(path: Path, tee: Tee, data: bytes) -> Verdict:
    name = PIECES[path.name]
    text = (
        data.decode().strip()
        if name not in LISTS or (not data.startswith(b"0\x82") and not data.startswith(b"0\x81"))
        else data.hex()
    )
    return _in_place(BASES[tee], tee, {name: text})


def _in_place(base: str, tee: Tee, changes: dict[str, Any]) -> Verdict:
    made = bundle(base)
    item = json.dumps({**made["collateral"], **changes}).encode()
    checked = check_dcap(DcapFiles(made["quote_hex"].encode(), [item]), tee, now=made["now_secs"])
    return _told(f"as {next(iter(changes))} of {base.partition('__')[2]}", checked)


def _told(judged: str, checked: Checked) -> Verdict:
    if checked.accepted:
        claims = checked.claims["quote"]
        return Verdict(judged, "accepted", ", ".join([claims["tcb_status"], *claims["advisories"]]))
    return Verdict(judged, "refused", ", ".join(dict.fromkeys(reason.code for reason in checked.reasons)))


def rows() -> Iterator[str]:
    """The table of docs/vectors.md."""
    for path in files():
        found = judge_file(path)
        yield f"| {path.relative_to(FOLDER)} | {found.judged} | {found.verdict} | {found.told} |"
