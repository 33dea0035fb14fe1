"""`perunml evidence check sgx` and `tdx`: exit codes 0, 11 and 2, profiles as people write them, captured bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.kit import Party
from evidence.vectors import FOLDER, needs_vectors
from perunml.evidence.endorsements import Collateral
from perunml.testing.bootlog import Boot
from perunml.testing.ccel import ccel, ccel_rules
from perunml.testing.dcap import NOW, SGX_FIELDS, TDX_FIELDS, ForgedIntel
from perunml.wire.canonical import canonical
from perunml.wire.dsse import API_VERSION, Envelope, payload_type
from perunml.wire.timestamps import format_time

BUNDLES = FOLDER / "dcap-bundles"
TOLD = bytes(range(48))


def check(party: Party, *words: object) -> tuple[int, Any]:
    """The exit code, and stdout's JSON."""
    said = party("-o", "json", "evidence", "check", *words, passphrase=None)
    return said.code, said.json if said.out else None


def codes(said: Any) -> list[str]:
    return [reason["code"] for reason in said["reasons"]]


@pytest.fixture
def forged(tmp_path: Path) -> dict[str, list[object]]:
    """The options for a forged quote of each TEE, a development root passed by name."""
    intel, (log, rtmrs) = ForgedIntel(), ccel(buffer=65_536)
    told = TOLD + bytes(16)
    named = {f"rtmr{index}": value for index, value in enumerate(rtmrs)}
    files = {
        "root": intel.root,
        "log": log,
        "cmdline": Boot().cmdline.encode() + b"\n",
        "sgx": intel.sgx_quote(told),
        "tdx": intel.tdx_quote(told, **named).hex().encode(),
        "sgx.json": intel.collateral("sgx"),
        "tdx.json": intel.collateral("tdx"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    common = ["--simulated-root", tmp_path / "root", "--at", format_time(NOW)]
    return {
        tee: [tee, "--quote", tmp_path / tee, "--collateral", tmp_path / f"{tee}.json", *common]
        for tee in ("sgx", "tdx")
    }  # fmt: skip


def test_quotes_with_and_without_a_profile(nobody: Party, forged: dict[str, list[object]], tmp_path: Path) -> None:
    """Accepted; met by the second alternative of a ManagerProfile; refused by another measurement, with the reason."""
    for tee, member, field in (("sgx", "mr_enclave", SGX_FIELDS), ("tdx", "mr_td", TDX_FIELDS)):
        code, said = check(nobody, *forged[tee])
        assert (code, said["accepted"], said["claims"]["quote"]["simulated"]) == (0, True, True)
        profile = tmp_path / "profile.yaml"
        rules = {member: [field[member].hex()], **({"open": [0, 1, 2, 3]} if tee == "tdx" else {})}
        alternatives = [
            {"profile": "tee", tee: {**rules, member: ["ab" * len(field[member])]}},
            {"profile": "tee", tee: rules},
        ]
        profile.write_text(
            json.dumps({"apiVersion": "perunml/v1", "kind": "ManagerProfile", "profile": {"any_of": alternatives}})
        )
        assert check(nobody, *forged[tee], "--profile", profile) == (0, said)
        profile.write_text(json.dumps(alternatives[0]))
        code, said = check(nobody, *forged[tee], "--profile", profile)
        assert (code, codes(said)) == (11, ["measurement_mismatch"])


def test_collateral_out_of_a_managers_bundle(nobody: Party, forged: dict[str, list[object]], tmp_path: Path) -> None:
    """The envelope that `collateral bundle` writes; a bundle without Intel's part judges nothing."""
    items = tuple((tmp_path / f"{tee}.json").read_bytes() for tee in ("sgx", "tdx"))
    for made, expected in ((Collateral(NOW, dcap=items), []), (Collateral(NOW), ["collateral_missing"])):
        body = {"apiVersion": API_VERSION, "kind": "Collateral", **made.as_json()}
        envelope = Envelope(payload_type("Collateral"), canonical(body))
        (tmp_path / "bundle.json").write_bytes(canonical(envelope.as_json()))
        for tee in ("sgx", "tdx"):
            words = [*forged[tee][:4], tmp_path / "bundle.json", *forged[tee][5:]]
            code, said = check(nobody, *words)
            assert (code, codes(said)) == (11 if expected else 0, expected)


def test_report_data_are_compared(nobody: Party, forged: dict[str, list[object]]) -> None:
    """T9: zeros follow what is given."""
    assert check(nobody, *forged["sgx"], "--report-data", TOLD.hex())[0] == 0
    code, said = check(nobody, *forged["sgx"], "--report-data", TOLD[1:].hex())
    assert (code, codes(said)) == (11, ["binding_mismatch"])


def test_t18_a_development_root_must_be_named(nobody: Party, forged: dict[str, list[object]]) -> None:
    """T18: the same quote without the root is nobody's."""
    words = [*forged["tdx"][:5], *forged["tdx"][7:]]
    code, said = check(nobody, *words)
    assert (code, codes(said)) == (11, ["certificate_chain"])
    assert said["claims"]["quote"]["verified"] is False


def test_an_event_log_explains_the_registers(nobody: Party, forged: dict[str, list[object]], tmp_path: Path) -> None:
    """In the firmware's padded buffer, with the rules of a profile; another log is refused with and without one."""
    words = [*forged["tdx"], "--event-log", tmp_path / "log", "--cmdline", tmp_path / "cmdline"]
    code, said = check(nobody, *words)
    assert code == 0
    assert said["claims"]["event_log"]["secure_boot"] is True
    profile = tmp_path / "profile.json"
    rules = {"mr_td": [TDX_FIELDS["mr_td"].hex()], "boot": ccel_rules().as_json()}
    profile.write_text(json.dumps({"profile": "tee", "tdx": rules}))
    assert check(nobody, *words, "--profile", profile)[0] == 0
    assert codes(check(nobody, *forged["tdx"], "--profile", profile)[1]) == ["event_log_missing"] * 4
    (tmp_path / "log").write_bytes(ccel(Boot(image=b"another"))[0])
    assert codes(check(nobody, *words)[1]) == ["event_log_mismatch"]
    assert codes(check(nobody, *words, "--profile", profile)[1]) == ["event_log_mismatch"]


def test_files_of_noise_are_refused_and_crash_nothing(
    nobody: Party, forged: dict[str, list[object]], tmp_path: Path
) -> None:
    """T16: empty, short, text: exit code 11, never 1."""
    noise = tmp_path / "noise"
    for data in (b"", b"\0", b"0x", b"abc", b"{}", bytes(8000), b"\x03\0\x02\0" + bytes(700)):
        noise.write_bytes(data)
        for tee in ("sgx", "tdx"):
            assert check(nobody, *forged[tee], "--quote", noise)[0] == 11, data[:8]
            assert check(nobody, *forged[tee][:4], noise, *forged[tee][5:])[0] == 11, data[:8]
        assert check(nobody, *forged["tdx"], "--event-log", noise)[0] == 11, data[:8]


def test_unusable_calls(nobody: Party, forged: dict[str, list[object]], tmp_path: Path) -> None:
    """Exit code 2: nothing given, both ways given, values that are none, profiles that say nothing of it."""
    profile = tmp_path / "bad"
    profile.write_text("profile: tee\n")
    for words, code in (
        (["sgx"], "usage"),
        (["sgx", *forged["sgx"][3:]], "usage"),
        ([*forged["sgx"], "--bundle", profile], "usage"),
        ([*forged["sgx"], "--report-data", "0"], "usage"),
        ([*forged["sgx"], "--report-data", "00" * 65], "usage"),
        ([*forged["sgx"], "--event-log", profile], "usage"),
        ([*forged["sgx"], "--at", "soon"], "usage"),
        ([*forged["sgx"], "--profile", profile], "malformed"),
        (["tdx", "--bundle", profile], "malformed"),
    ):
        assert nobody.refused("evidence", "check", *words) == (2, code), words


@needs_vectors
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgx__Phala-Network__dcap-qvl__sgx_quote@2025-06-19", None),
        ("sgx__confidential-containers__trustee__occlum_quote_dat@2025-08-15", "debug_enabled"),
        ("tdx__Phala-Network__dcap-qvl__tdx_quote@2026-08-13", None),
        ("tdx__openenclave__openenclave__tdx_quote_v5_bin@2025-10-19", "service_td"),
    ],
)
def test_captured_bundles(nobody: Party, name: str, expected: str | None) -> None:
    """At their own time; a year later the collateral is past."""
    words = [name[:3], "--bundle", BUNDLES / f"{name}.json"]
    code, said = check(nobody, *words)
    assert (code, codes(said)) == ((11, [expected]) if expected else (0, []))
    code, said = check(nobody, *words, "--at", "2027-12-01T00:00:00Z")
    assert code == 11
    assert "collateral_expired" in codes(said)


@needs_vectors
def test_a_captured_quote_and_its_collateral(nobody: Party) -> None:
    """The plain form of collateral, as dcap-qvl writes it, beside the quote."""
    folder = FOLDER / "sgx" / "Phala-Network__dcap-qvl"
    words = ["--quote", folder / "sgx_quote", "--collateral", folder / "sgx_quote_collateral.json"]
    code, said = check(nobody, "sgx", *words, "--at", "2025-07-01T00:00:00Z")
    assert (code, said["claims"]["quote"]["tcb_status"]) == (0, "ConfigurationAndSWHardeningNeeded")
    code, said = check(nobody, "tdx", *words, "--at", "2025-07-01T00:00:00Z")
    assert (code, codes(said)) == (11, ["wrong_tee"])
