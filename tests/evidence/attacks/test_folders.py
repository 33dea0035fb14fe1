"""Attacks with what lies in a folder of collateral: odd files hide no good ones, and stop nobody's collection."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from perunml.client.collateral.sort import sort_files
from perunml.testing.dcap import ForgedIntel


@cache
def item() -> dict[str, str]:
    found: dict[str, str] = json.loads(ForgedIntel().collateral("sgx"))
    return found


def answer(member: str, name: str, text: str = "") -> bytes:
    """As the vendor's service answers: the signed text, and its signature."""
    return f'{{"{member}":{text or item()[name]},"signature":"{item()[f"{name}_signature"]}"}}'.encode()


def files(tcb: str = "", qe: str = "") -> list[tuple[str, bytes]]:
    return [
        ("tcb.json", answer("tcbInfo", "tcb_info", tcb)),
        ("qe.json", answer("enclaveIdentity", "qe_identity", qe)),
        ("tcb.pem", item()["tcb_info_issuer_chain"].encode()),
        ("pck.pem", item()["pck_crl_issuer_chain"].encode()),
        ("pck.crl", bytes.fromhex(item()["pck_crl"])),
        ("root.crl", bytes.fromhex(item()["root_ca_crl"])),
    ]


def test_parts_of_a_vendor_make_an_item() -> None:
    """ACCEPT: nothing is left out."""
    pile = sort_files(files())
    assert (len(pile.dcap), pile.left_out) == (1, [])


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    qe = json.loads(item()["qe_identity"])
    change(qe)
    return json.dumps(qe)


@pytest.mark.parametrize(
    "qe",
    [
        changed(lambda qe: qe.pop("tcbEvaluationDataNumber")), changed(lambda qe: qe.pop("issueDate")),
        changed(lambda qe: qe.update(tcbEvaluationDataNumber=[])), changed(lambda qe: qe.update(tcbEvaluationDataNumber=99)),
        "7", "[]",
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_left_out(qe: str) -> None:
    """A member that is missing, or of another type; a number that nobody signed."""
    pile = sort_files(files(qe=qe))
    assert pile.dcap == []
    assert {name for name, _ in pile.left_out} <= {"qe.json", "tcb.json"}
    assert pile.left_out


def test_tcb_information_that_is_no_object_is_left_out() -> None:
    """A text, where the vendor has an object."""
    assert ("tcb.json", "it is no statement of a vendor that is known here") in sort_files(files(tcb='"x"')).left_out
