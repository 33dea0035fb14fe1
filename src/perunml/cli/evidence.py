"""`perunml evidence check`: judge evidence that lies in files, offline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perunml.cli.settings import Settings, group
from perunml.cli.voice import four_parts, table

if TYPE_CHECKING:
    from perunml.evidence.offline.findings import Checked

command = group("Evidence in files, for auditors: judged offline, without a manager.")
check = group("Judge evidence that lies in files. Exit code 0: accepted, 11: refused, 2: the call is not usable.")
command.add_command(check, "check")
existing = click.Path(path_type=Path, exists=True, dir_okay=False)


@check.command("tpm")
@click.option("--attest", type=existing, required=True, help="The quote: TPMS_ATTEST, without a length before it.")
@click.option("--signature", type=existing, required=True, help="Its signature: TPMT_SIGNATURE.")
@click.option("--ak", type=existing, required=True, help="The attestation key: TPM2B_PUBLIC, or the bare key in PEM.")
@click.option("--nonce", required=True, metavar="HEX", help="What the quote must sign as extraData.")
@click.option("--event-log", type=existing, help="The firmware's boot log (binary_bios_measurements).")
@click.option("--ima", type=existing, help="The kernel's IMA log (binary_runtime_measurements; ASCII is weaker).")
@click.option("--ek-cert", type=existing, help="The EK's certificate, DER or PEM; needs --ca.")
@click.option("--ca", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="A folder of certificates; the self-signed ones are trusted as roots.")  # fmt: skip
@click.option("--cmdline", "cmdline_file", type=existing,
              help="The kernel's command line as the machine tells it (/proc/cmdline); some loaders measure its digest alone.")  # fmt: skip
@click.option("--profile", type=existing, help="A Baseline document (YAML or JSON) to judge by.")
@click.option("--at", metavar="RFC3339", help="Judge as of this time, as 2027-01-31T00:00:00Z [default: now].")
@click.pass_obj
def tpm(
    settings: Settings,
    attest: Path,
    signature: Path,
    ak: Path,
    nonce: str,
    event_log: Path | None,
    ima: Path | None,
    ek_cert: Path | None,
    ca: Path | None,
    cmdline_file: Path | None,
    profile: Path | None,
    at: str | None,
) -> int:
    """Judge a TPM's quote with its logs and EK certificate.

    Without `--profile`, all that needs no policy is judged: signature, names, nonce, selection, the EK's chain, template
    hashes, the logs' replay to the quoted PCRs, boot_aggregate; the rest is told as claims. With it, the appraisal of a
    manager runs as well.
    """
    from perunml.client.evidence import TpmFiles, check_tpm, read_authorities, read_evidence, read_profile

    if (ek_cert is None) != (ca is None):
        raise click.UsageError("--ek-cert and --ca come together.")
    files = TpmFiles(
        read_evidence(attest),
        read_evidence(signature),
        read_evidence(ak),
        read_hex("--nonce", nonce),
        read_evidence(event_log) if event_log is not None else None,
        read_evidence(ima) if ima is not None else None,
        read_evidence(ek_cert) if ek_cert is not None else None,
        read_authorities(ca) if ca is not None else (),
        read_cmdline(cmdline_file),
    )
    baseline = read_profile(profile) if profile is not None else None
    now = read_time(at) if at is not None else int(time.time())
    return answer(settings, check_tpm(files, now=now, baseline=baseline))


@check.command("event-log")
@click.argument("file", type=existing)
@click.option("--cmdline", "cmdline_file", type=existing, help="The kernel's command line as the machine tells it.")
@click.pass_obj
def event_log_(settings: Settings, file: Path, cmdline_file: Path | None) -> int:
    """Read and replay the boot log in FILE: is it of its form, which PCRs does it give, what does it tell?"""
    from perunml.client.evidence import check_event_log, read_evidence

    return answer(settings, check_event_log(read_evidence(file), read_cmdline(cmdline_file)))


@check.command("ima")
@click.argument("file", type=existing)
@click.option("--pcr10", metavar="BANK:HEX", help="A value of PCR 10 that a prefix of the log must give.")
@click.pass_obj
def ima_(settings: Settings, file: Path, pcr10: str | None) -> int:
    """Read the IMA log in FILE, check its template hashes, and with `--pcr10` how many of its lines that value proves."""
    from perunml.client.evidence import check_ima, read_evidence

    return answer(settings, check_ima(read_evidence(file), _pcr10(pcr10) if pcr10 is not None else None))


def read_hex(option: str, text: str) -> bytes:
    """The bytes of an option's value. Raises click's `UsageError`."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if not raw or len(raw) * 2 != len(text):
        raise click.UsageError(f"{option} is not hexadecimal: two digits for each byte.")
    return raw


def read_cmdline(file: Path | None) -> str:
    """What the machine tells of its kernel's command line; empty where it does not."""
    from perunml.client.evidence import read_evidence

    return read_evidence(file).decode("utf-8", "replace").removesuffix("\n") if file is not None else ""


def read_time(text: str) -> int:
    """Seconds since 1970 of any RFC 3339 time: with an offset, with fractions. An auditor's clock may write what it likes."""
    import datetime as dt

    try:
        found = dt.datetime.fromisoformat(text)
        if found.tzinfo is not None and text[10:11] in ("T", "t", " "):
            return int(found.timestamp())
    except (ValueError, OverflowError):
        pass
    raise click.UsageError("--at is a time of RFC 3339, as 2027-01-31T00:00:00Z.")


def _pcr10(text: str) -> tuple[str, bytes]:
    from perunml.evidence.bundle import BANK_SIZES

    bank, colon, value = text.partition(":")
    if not colon or bank not in BANK_SIZES:
        raise click.UsageError(f"--pcr10 is BANK:HEX with a bank of {', '.join(BANK_SIZES)}.")
    raw = read_hex("--pcr10", value)
    if len(raw) != BANK_SIZES[bank]:
        raise click.UsageError(f"--pcr10: a value of the {bank} bank has {BANK_SIZES[bank]} bytes.")
    return bank, raw


def answer(settings: Settings, checked: Checked) -> int:
    """Tell a check's result, on stdout whatever it is; the exit code."""
    from perunml.wire.rules import Kind

    lines = [line for reason in checked.reasons for line in four_parts(reason)]
    rows = [("accepted", "yes" if checked.accepted else "no"), *_rows("", checked.claims)]
    settings.voice.answer(checked.as_json(), [*lines, *table(rows)])
    return 0 if checked.accepted else Kind.EVIDENCE.value


def _rows(prefix: str, claims: dict[str, Any]) -> list[tuple[str, object]]:
    """Claims as lines: nested names joined, lists counted where they are long."""
    rows: list[tuple[str, object]] = []
    for name, value in claims.items():
        if isinstance(value, dict):
            rows += _rows(f"{prefix}{name} ", value)
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for number, item in enumerate(value):
                rows += _rows(f"{prefix}{name} {number} ", item)
        elif isinstance(value, list):
            shown = ", ".join(map(str, value[:16])) + (f" and {len(value) - 16} more" if len(value) > 16 else "")
            rows.append((f"{prefix}{name}", shown or "none"))
        elif value is not None:
            rows.append((f"{prefix}{name}", value))
    return rows


# each of these modules hangs its verb on `check`
from perunml.cli import evidence_dcap, evidence_nvidia, evidence_snp  # noqa: E402, F401 - below what it uses of this module
