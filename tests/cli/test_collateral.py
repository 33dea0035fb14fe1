"""`perunml collateral`: collected, signed, shown, and judged by in a manager that was told of the signer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.kit import Party
from client.vendors import DRIVER, VBIOS, Vendors, serving
from perunml.manager.collateral import CollateralStore
from perunml.manager.config import Config
from perunml.manager.store.database import Database
from perunml.wire.dsse import Envelope


@pytest.fixture
def given(tmp_path: Path) -> tuple[Vendors, list[object]]:
    """Vendors, and the words that name evidence of theirs."""
    vendors = Vendors()
    (tmp_path / "quote").write_bytes(vendors.intel.tdx_quote())
    (tmp_path / "report").write_bytes(vendors.chip.report())
    return vendors, [
        "--quote",
        tmp_path / "quote",
        "--report",
        tmp_path / "report",
        "--rim-id",
        DRIVER,
        "--rim-id",
        VBIOS,
    ]


def test_a_bundle_goes_from_the_vendors_into_a_manager(
    vitus: Party, tmp_path: Path, given: tuple[Vendors, list[object]]
) -> None:
    """Fetched from caches by their own TLS, signed by the operator, believed by the manager that admits the operator's key."""
    vendors, words = given
    out, ca, folder = tmp_path / "bundle.json", tmp_path / "cache.pem", tmp_path / "manager"
    with serving(tmp_path, vendors):
        ca.write_text(vendors.tls_ca)
        caches = [word for name in ("pcs", "kds", "rim", "ocsp") for word in (f"--{name}", vendors.url)]
        said = vitus.ok("collateral", "bundle", "--out", out, *words, *caches, "--tls-ca", ca)
        assert vitus.refused("collateral", "bundle", "--out", out, *words, *caches, "--tls-ca", ca) == (
            2,
            "already_exists",
        )
        assert vitus.refused("collateral", "bundle", "--out", tmp_path / "b", *words, *caches) == (16, "vendor_answer")
    assert said["counts"] == {"dcap": 1, "certificates": 3, "crls": 1, "rims": 2, "ocsp": 2}
    assert said["left_out"] == []
    key = vitus.ok("id", "show")["identity"]
    shown = vitus.ok("collateral", "show", out)
    assert (shown["signers"], shown["digest"], shown["past"]) == ([key], Envelope.decode(out.read_bytes()).digest, 0)
    assert len(shown["items"]) == 9
    assert shown["expires"] == min((item for item in shown["items"] if item["until"]), key=lambda item: item["until"])
    text = vitus("collateral", "show", out).out
    assert "ends first" in text
    assert "tdx 50806F000000" in text
    for name, signers in (("told", ["--collateral-signer", key]), ("other", [])):
        vitus.ok("manager", "init", "--folder", folder / name, "--url", "https://127.0.0.1:1", *signers)
        config = Config.load(folder / name)
        (config.collateral / "bundle.json").write_bytes(out.read_bytes())
        store = CollateralStore(config.collateral, config.collateral_signers, (), lambda: 0.0)
        database = Database.open(config.database)
        try:
            with database.read() as connection:
                if signers:
                    assert len(store.endorsements(connection).collateral.dcap) == 1
                else:
                    with pytest.raises(Exception, match="collateral_unsigned"):
                        store.endorsements(connection)
        finally:
            database.close()


def test_a_folder_gives_a_bundle_without_a_network(
    vitus: Party, tmp_path: Path, given: tuple[Vendors, list[object]]
) -> None:
    """Files are enough; what they lack is named, and what is none is left out with a word."""
    vendors, words = given
    folder = tmp_path / "vendors"
    folder.mkdir()
    files = {"a": vendors.intel.collateral("tdx"), "b": vendors.nvidia.driver_rim(), "words": b"bought in 2026"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    out = tmp_path / "bundle.json"
    said = vitus("-o", "json", "collateral", "bundle", "--from", folder, "--out", out, *words)
    assert (said.code, said.reasons) == (2, ["collateral_lacking"] * 2)  # the chip, the firmware's manifest
    assert not out.exists()
    said = vitus("-o", "json", "collateral", "bundle", "--from", folder, "--out", out, "--quote", tmp_path / "quote")
    assert said.json["left_out"] == [{"file": "words", "why": "it is no statement of a vendor that is known here"}]
    assert vitus.refused("collateral", "bundle", "--from", folder, "--out", out, "--pcs", "https://a") == (2, "usage")
    assert vitus.refused("collateral", "bundle", "--out", tmp_path / "none") == (2, "collateral_lacking")
    bad = [("--fmspc", "tdx:1"), ("--product", "Rome"), ("--rim-id", "../x"), ("--pcs", "http://a")]
    for option, value in bad:
        assert vitus.refused("collateral", "bundle", "--out", tmp_path / "none", option, value) == (2, "malformed")


def test_what_is_no_bundle_is_not_shown(vitus: Party, nobody: Party, tmp_path: Path) -> None:
    """No envelope, another document, a signature that does not verify; and no identity, no bundle."""
    path = tmp_path / "bundle.json"
    path.write_bytes(b"{}")
    assert vitus.refused("collateral", "show", path) == (2, "malformed")
    path.write_bytes(json.dumps({"payloadType": "application/x", "payload": "e30", "signatures": []}).encode())
    assert vitus.refused("collateral", "show", path) == (14, "wrong_payload_type")
    assert Party(tmp_path / "nobody").refused("collateral", "bundle", "--out", path, "--product", "Milan") == (
        2,
        "no_identity",
    )
