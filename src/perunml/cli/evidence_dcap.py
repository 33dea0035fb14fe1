"""`perunml evidence check sgx` and `tdx`: judge Intel quotes that lie in files, offline."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from perunml.cli.evidence import answer, check, existing, read_cmdline, read_hex, read_time
from perunml.cli.settings import Settings

Tee = Literal["sgx", "tdx"]
_OPTIONS = (
    click.option("--quote", type=existing, help="The quote: bytes or hex."),
    click.option("--collateral", type=existing, multiple=True,
                 help="Intel's collateral for it: an item in dcap-qvl's JSON form, or a bundle of `collateral bundle`; repeatable."),
    click.option("--bundle", type=existing,
                 help="Quote, collateral and time in one JSON file (quote_hex, collateral, now_secs), in place of both."),
    click.option("--report-data", metavar="HEX", help="What the TEE must report: up to 64 bytes, zeros after them."),
    click.option("--simulated-root", "roots", type=existing, multiple=True,
                 help="A development root that is believed: what leads to it is simulated."),
    click.option("--profile", type=existing, help="A profile with rules for it, as in an agreement (YAML or JSON), to judge by."),
    click.option("--at", metavar="RFC3339", help="Judge as of this time, as 2027-01-31T00:00:00Z [default: the bundle's, else now]."),
    click.pass_obj,
)  # fmt: skip


def _options(verb: Callable[..., int]) -> Callable[..., int]:
    """What both verbs ask."""
    for option in reversed(_OPTIONS):
        verb = option(verb)
    return verb


@check.command("sgx")
@_options
def sgx(settings: Settings, **given: Any) -> int:
    """Judge a quote of an SGX enclave.

    Without `--profile`, all that needs no policy is judged: form, the chain to Intel's root, revocation, collateral in force, the
    quoting enclave, a TCB level that is not revoked, no debug mode, the signature; TCB status and measurements are told as
    claims. With it, the appraisal of a manager runs as well.
    """
    return _check(settings, "sgx", None, None, **given)


@check.command("tdx")
@_options
@click.option(
    "--event-log", type=existing, help="The log of what extended the RTMRs (CCEL), with or without its padding."
)
@click.option("--cmdline", "cmdline_file", type=existing, help="The kernel's command line as the machine tells it.")
def tdx(settings: Settings, event_log: Path | None, cmdline_file: Path | None, **given: Any) -> int:
    """Judge a quote of a TDX trust domain.

    As `check sgx`; an `--event-log` must give the quoted RTMRs, and with a `--profile` that has rules for it (`boot`), its events
    must be agreed.
    """
    return _check(settings, "tdx", event_log, cmdline_file, **given)


def _check(
    settings: Settings,
    tee: Tee,
    event_log: Path | None,
    cmdline_file: Path | None,
    *,
    quote: Path | None,
    collateral: tuple[Path, ...],
    bundle: Path | None,
    report_data: str | None,
    roots: tuple[Path, ...],
    profile: Path | None,
    at: str | None,
) -> int:
    from perunml.client.evidence import DcapFiles, check_dcap, read_bundle, read_dcap, read_evidence
    from perunml.client.rules import read_rules
    from perunml.evidence.dcap.rules import SgxRules, TdxRules
    from perunml.evidence.pem import CERTIFICATE, unarmoured

    if (bundle is None) == (quote is None and not collateral):
        raise click.UsageError("--quote with --collateral, or --bundle.")
    if bundle is None and quote is None:
        raise click.UsageError("--collateral comes with --quote.")
    told = read_hex("--report-data", report_data) if report_data is not None else None
    if told is not None and len(told) > 64:
        raise click.UsageError("--report-data has at most 64 bytes.")
    raw, trailing, items, now = b"", 0, [item for path in collateral for item in read_dcap(path)], int(time.time())
    if bundle is not None:
        made = read_bundle(read_evidence(bundle))
        raw, trailing, items, now = made.quote, made.trailing, [made.collateral], made.now
    elif quote is not None:
        raw = read_evidence(quote)
    files = DcapFiles(
        raw,
        items,
        read_evidence(event_log) if event_log is not None else None,
        told,
        read_cmdline(cmdline_file),
        [unarmoured(read_evidence(root), CERTIFICATE) for root in roots],
        trailing,
    )
    reader = SgxRules.from_json if tee == "sgx" else TdxRules.from_json
    rules: list[SgxRules | TdxRules] = (
        [reader(found) for found in read_rules(profile, tee)] if profile is not None else []
    )
    return answer(settings, check_dcap(files, tee, now=read_time(at) if at is not None else now, rules=rules))
