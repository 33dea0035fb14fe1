"""The whole command tree against what is said of it: each verb from Python, each dry run, each answer in JSON."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import click
import pytest

from cli.verbs import NOT_IN_PYTHON, SDK, SENDS, SERVES, WRITES, leaves
from perunml import Client, operators

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
COMMON = {"help", "home_folder", "output", "passphrase_fd"}
_DCAP = {
    **dict.fromkeys(("quote", "collateral", "report_data", "roots"), "perunml.client.evidence.DcapFiles"),
    "bundle": "perunml.client.evidence.read_bundle",
    "profile": "rules",
    "at": "now",
}
_BASELINE = {
    **dict.fromkeys(("root", "image", "dpkg", "packages", "split_usr", "ima_log"), "perunml.client.baselines.Sources"),
    **dict.fromkeys(
        ("exec_only", "algorithms", "event_log", "pcrs", "values", "by_events"), "perunml.client.baselines.Sources"
    ),
    **dict.fromkeys(("ima_require", "ima_policies", "ima_keys", "ima_keyrings"), "perunml.evidence.rules.ImaRules"),
    **dict.fromkeys(("ima_violations", "ima_reload", "ima_kexec"), "perunml.evidence.rules.ImaRules"),
    **dict.fromkeys(("boot_authorities", "boot_dbx", "boot_mok", "open_pcr"), "perunml.evidence.rules.BootRules"),
    **dict.fromkeys(("boot_applications", "boot_loaded", "boot_cmdline"), "perunml.evidence.rules.BootRules"),
    **dict.fromkeys(("boot_no_cmdline", "boot_secure_boot"), "perunml.evidence.rules.BootRules"),
    **dict.fromkeys(("tpm_denied_firmware", "tpm_unsafe_clock", "tpm_discrete"), "perunml.evidence.rules.TpmRules"),
    **dict.fromkeys(("older", "until"), "perunml.client.baselines.assemble"),
    "out": "answer",
}
_CONDITION = ("until", "runs", "wall", "lease", "jobs", "machines", "profiles", "operators", "recipients", "clients")
RENAMED: dict[str, dict[str, str]] = {
    "id create": {},
    "id switch": {"unasked": "ask"},
    "id forget": {"unasked": "ask"},
    "trust": {"dry_run": "Client.open"},
    "document push": {"file": "body"},
    "document digest": {"file": "body"},
    "document sign": {"out": "answer"},
    "agreement check": {"file": "agreement"},
    "agreement propose": {"file": "agreement"},
    "agreement approve": {"agreement": "digest"},
    "agreement show": {"agreement": "wanted"},
    "asset show": {"asset": "name"},
    "condition add": dict.fromkeys((*_CONDITION, "file"), "condition"),
    "job submit": {"waits": "Client.wait", "timeout": "Client.wait"},
    "job show": {"receipt": "answer"},
    "output approve": {"name": "output"},
    "output pull": {"name": "output"},
    "infer": {"file": "inputs", "receipt": "answer"},
    "proxy": {"receipts": "on_receipt"},
    "receipt verify": {"file": "data", "pin_file": "perunml.client.audit.verify_receipt_file"},
    "agreement message": {"until": "expires", "out": "answer"},
    "agreement attach": {"file": "message", "out": "answer"},
    "agreement rotate-key": {"out": "answer"},
    "audit verify": {"pin_file": "perunml.client.audit_verify.verify_export"},
    "asset lift": {"out": "answer"},
    "condition drop": {"out": "answer"},
    "recovery give": {"out": "answer"},
    "why": {"job": "what"},
    "checker try": {},
    "checker run": {"config": "rules", "every": "pause", "manager": "client"},
    "witness run": {"manager": "connection"},
    "manager join": {
        **dict.fromkeys(("ima_log", "event_log", "cmdline"), "files"),
        **dict.fromkeys(("simulated_ek_roots", "vendor_roots", "simulated_tee_roots", "collateral"), "given"),
    },
    "manager run": {},
    "manager backup": {"file": "target"},
    "manager restore": {"file": "source"},
    "manager adopt": {"file": "source"},
    "host enrol": {"pin_file": "pin", "at": "Client.enrol_host"},
    "host install": {
        **dict.fromkeys(
            ("folder", "attester", "services_listen", "metrics_listen", "data"), "perunml.host.install.Wish"
        ),
        "pin_file": "perunml.host.install.Wish",
        "manager": "perunml.host.install.Wish",
    },
    "host uninstall": {"folder": "answer", "delete_state": "answer"},
    "host boot": {"folder": "said"},
    "host boot-log": {"at": "address", "out": "answer"},
    "image golden": {"out": "answer", "sign": "answer"},
    "host explain": {"name": "host"},
    "host run": {"pin_file": "pin", "manager": "pin"},
    "quickstart": {"keep": "folder"},
    "evidence check tpm": {
        **dict.fromkeys(("attest", "signature", "ak", "nonce", "event_log", "ima"), "perunml.client.evidence.TpmFiles"),
        **dict.fromkeys(("ek_cert", "ca", "cmdline_file"), "perunml.client.evidence.TpmFiles"),
        "profile": "baseline",
        "at": "now",
    },
    "evidence check event-log": {"file": "data", "cmdline_file": "cmdline"},
    "evidence check sgx": _DCAP,
    "evidence check tdx": {**_DCAP, "event_log": _DCAP["quote"], "cmdline_file": _DCAP["quote"]},
    "evidence check snp": {
        **dict.fromkeys(("report", "certs", "crls", "report_data", "roots"), "perunml.client.evidence.SnpFiles"),
        "profile": "rules",
        "at": "now",
    },
    "evidence check nvidia": {
        **dict.fromkeys(("reports", "chain", "nonce"), "perunml.client.evidence.NvidiaFiles"),
        **dict.fromkeys(("rim", "ocsp", "roots"), "perunml.client.evidence.NvidiaFiles"),
        "profile": "rules",
        "at": "now",
    },
    "evidence check ima": {"file": "data"},
    "collateral bundle": {
        **dict.fromkeys(("quotes", "fmspcs", "reports", "products"), "perunml.client.collateral.read_wanted"),
        **dict.fromkeys(("certs", "rim_ids"), "perunml.client.collateral.read_wanted"),
        **dict.fromkeys(("pcs", "kds", "rim", "ocsp", "tls_ca"), "perunml.client.collateral.Services"),
        "out": "answer",
    },
    "collateral show": {"file": "data"},
    "baseline build": _BASELINE,
    "baseline import": {**_BASELINE, "file": "data"},
    "baseline show": {"file": "path"},
}
"""Options whose parameter is called otherwise, or that are another call (named), or a part of the answer."""


def found(name: str) -> Any:
    """What a name of the map means."""
    owner, _, rest = name.rpartition(".")
    if owner in ("Client", "operators"):
        return getattr(Client if owner == "Client" else operators, rest, None)
    return getattr(importlib.import_module(owner), rest)


def parameters(name: str) -> set[str]:
    """What a function takes; ``**which`` stands for what `operators.machine` takes."""
    names = set(inspect.signature(found(name)).parameters)
    return names | set(inspect.signature(operators.machine).parameters) if "which" in names else names


def rows(heading: str) -> list[tuple[list[str], str]]:
    """A section's table: (the backticked words of the first cell, the second cell)."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert table
    return [
        (re.findall(r"`([^`]+)`", first), rest.rstrip(" |").strip())
        for first, rest in (line[1:].split("|", 1) for line in table)
    ]


def test_the_tree_is_walked() -> None:
    """An empty tree would pass everything below."""
    verbs = leaves()
    assert len(verbs) >= 36
    assert {"trust", "agreement approve", "host enrol"} <= set(verbs)
    assert not any(verb.startswith("model") for verb in verbs)


def test_each_verb_has_its_python() -> None:
    """`from perunml import Client`, or `operators`: every verb of the tree is in the map, and nothing else is."""
    assert set(SDK) | NOT_IN_PYTHON == set(leaves())
    assert not set(SDK) & NOT_IN_PYTHON


@pytest.mark.parametrize(("verb", "name"), [*SDK.items()], ids=[*SDK])
def test_what_the_map_names_is_there(verb: str, name: str) -> None:
    """Public, callable, and with a docstring; an attribute that each client has is told by the class's `create`."""
    assert not any(part.startswith("_") for part in name.split("."))
    if name == "Client.identity":
        assert "self.identity =" in inspect.getsource(Client.__init__)
        return
    value = found(name)
    assert value is not None, name
    assert callable(value)
    assert (inspect.getdoc(value) or "").strip().endswith((".", "`."))


@pytest.mark.parametrize(("verb", "command"), [*leaves().items()], ids=[*leaves()])
def test_each_option_has_its_parameter(verb: str, command: click.Command) -> None:
    """What can be said on the command line can be said in Python: by the same name, or by the one in `RENAMED`. `--manager`
    and `--dry-run` are `Client.open`'s."""
    if verb in NOT_IN_PYTHON or SDK[verb] == "Client.identity":
        return
    takes = parameters(SDK[verb]) | {name for name in ("manager", "dry_run") if SDK[verb].startswith("Client.")}
    takes |= {"manager", "dry_run"} if "client" in takes else set()
    renamed = RENAMED.get(verb, {})
    for parameter in command.params:
        name = str(parameter.name)
        if name in COMMON:
            continue
        said = renamed.get(name, name)
        if "." in said:
            assert found(said) is not None
        elif said != "answer":
            assert said in takes, f"{verb}: {name}"


def test_the_page_maps_as_the_map_does() -> None:
    """docs/cli.md, "From Python": each verb once, with the very name."""
    told: dict[str, str] = {}
    for verbs, cell in rows("From Python"):
        names = re.findall(r"`([^`]+)`", cell)
        for verb in verbs:
            assert verb not in told
            told[verb] = names[0] if names else ""
    assert {verb: name for verb, name in told.items() if name} == SDK
    assert {verb for verb, name in told.items() if not name} == NOT_IN_PYTHON


def test_the_page_says_what_each_verb_answers_in_json() -> None:
    """docs/cli.md, "What `-o json` answers": each verb once."""
    told = [verb for verbs, cell in rows("What `-o json` answers") for verb in verbs if cell]
    assert sorted(told) == sorted(leaves())


def test_every_verb_takes_the_output_option() -> None:
    """`-o json` everywhere, by the one option that all share."""
    for verb, command in leaves().items():
        options = [option for parameter in command.params for option in parameter.opts]
        assert {"-o", "--output", "--home", "--passphrase-fd"} <= set(options), verb


def test_dry_run_stands_where_something_is_sent_and_nowhere_else() -> None:
    """By the list; that the list is true, test_every_verb.py sees at a real manager."""
    has = {verb for verb, command in leaves().items() if any("--dry-run" in p.opts for p in command.params)}
    assert has == SENDS | WRITES
    assert set(leaves()) >= SERVES
    assert not SENDS & SERVES
