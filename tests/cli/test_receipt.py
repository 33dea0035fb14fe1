"""`perunml receipt verify`, offline, against a pin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.kit import Party
from client.test_pin import issue, pin_of
from perunml.client.home import Home
from perunml.ledger.receipts import Ran, Receipt, sign_receipt
from perunml.wire.digests import digest
from perunml.wire.identity import SigningKey

MANAGER = SigningKey.generate()


def receipt(**changes: Any) -> Receipt:
    fields: dict[str, Any] = {
        "manager": MANAGER.public.text,
        "agreement": digest(b"agreement"),
        "job": "train",
        "run": "0" * 32,
        "inputs": {"scans": digest(b"scans")},
        "code": digest(b"code"),
        "host": Ran("simulated:" + digest(b"m"), "simulated", "measured", True),
        "parameters": {"epochs": 3},
        "outputs": {"model": digest(b"model")},
        "entry_index": 7,
        "entry_hash": digest(b"entry"),
        "time": 0,
        "sentences": ("Its host was simulated: it proved nothing.",),
    }
    return Receipt(**{**fields, **changes})


@pytest.fixture
def clinic(nobody: Party) -> Party:
    """A party that pinned the manager; no identity is needed to verify."""
    Home(nobody.home).save_pin(pin_of(issue("manager")[1], identity=MANAGER.public.text))
    return nobody


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "receipt.json"
    path.write_bytes(sign_receipt(receipt(), MANAGER).encode())
    return path


def test_a_receipt_verifies_offline(clinic: Party, file: Path) -> None:
    """What ran, on what, under which agreement; simulated is said."""
    body = clinic.ok("receipt", "verify", file)
    assert body["verified"] is True
    assert body["receipt"]["outputs"] == {"model": digest(b"model")}
    text = clinic("receipt", "verify", file, passphrase=None).out
    assert "host simulated" in text
    assert "proved nothing" in text


def test_an_altered_receipt(clinic: Party, file: Path) -> None:
    """Exit code 14."""
    from perunml.wire.encoding import b64, unb64

    value = json.loads(file.read_bytes())
    value["payload"] = b64(unb64(value["payload"]).replace(b'"epochs":3', b'"epochs":4'))
    file.write_text(json.dumps(value))
    assert clinic.refused("receipt", "verify", file, passphrase=None) == (14, "bad_signature")


def test_another_managers_receipt(clinic: Party, tmp_path: Path) -> None:
    """A receipt counts only under the pinned manager."""
    other = SigningKey.generate()
    path = tmp_path / "other.json"
    path.write_bytes(sign_receipt(receipt(manager=other.public.text), other).encode())
    assert clinic.refused("receipt", "verify", path, passphrase=None) == (14, "bad_signature")
    pin = tmp_path / "pin.json"
    pin.write_bytes(pin_of(issue("other")[1], identity=other.public.text).to_file())
    assert clinic.ok("receipt", "verify", path, "--pin", pin)["verified"] is True


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"certificate": 1}', '{"payloadType":"","payload":"","signatures":[]}']
)
def test_what_is_no_receipt(clinic: Party, tmp_path: Path, text: str) -> None:
    """Refused with a code, whatever it is."""
    path = tmp_path / "bad.json"
    path.write_text(text)
    code, reason = clinic.refused("receipt", "verify", path, passphrase=None)
    assert (code, reason) in ((2, "malformed"), (14, "wrong_payload_type"), (14, "bad_signature"))
