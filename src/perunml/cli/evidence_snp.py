"""`perunml evidence check snp`: judge an AMD SEV-SNP report that lies in a file, offline."""

from __future__ import annotations

import time
from pathlib import Path

import click

from perunml.cli.evidence import answer, check, existing, read_hex, read_time
from perunml.cli.settings import Settings


@check.command("snp")
@click.option("--report", type=existing, required=True, help="The attestation report: 1,184 bytes, or hex.")
@click.option("--certs", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="A folder with the VCEK's or VLEK's certificate and AMD's chain: PEM, DER, or a hypervisor's table.")  # fmt: skip
@click.option(
    "--crl", "crls", type=existing, multiple=True, help="A revocation list of AMD's (DER or PEM); repeatable."
)
@click.option("--report-data", metavar="HEX", help="What the guest must have reported; zeros follow.")
@click.option("--simulated-root", "roots", type=existing, multiple=True,
              help="A development root that is believed: what leads to it is simulated.")  # fmt: skip
@click.option(
    "--profile", type=existing, help="A profile with `snp` rules, as in an agreement (YAML or JSON), to judge by."
)
@click.option("--at", metavar="RFC3339", help="Judge as of this time, as 2027-01-31T00:00:00Z [default: now].")
@click.pass_obj
def snp(
    settings: Settings,
    report: Path,
    certs: Path,
    crls: tuple[Path, ...],
    report_data: str | None,
    roots: tuple[Path, ...],
    profile: Path | None,
    at: str | None,
) -> int:
    """Judge an AMD SEV-SNP attestation report.

    Without `--profile`, all that needs no policy is judged: form, the chain to AMD's root, the signature, chip and firmware
    that the key is certified for, revocations in `--crl`, no debugging; the rest is told as claims. With it, the appraisal of a
    manager runs as well: measurement, firmware, policy bits, host data, and a revocation list in force.
    """
    from perunml.client.evidence import SnpFiles, check_snp, read_amd_certificates, read_evidence
    from perunml.client.rules import read_rules
    from perunml.evidence.offline.snp import REPORT_DATA
    from perunml.evidence.pem import CERTIFICATE, unarmoured
    from perunml.evidence.snp.rules import SnpRules

    told = read_hex("--report-data", report_data) if report_data is not None else None
    if told is not None and len(told) > REPORT_DATA:
        raise click.UsageError(f"--report-data has at most {REPORT_DATA} bytes.")
    files = SnpFiles(
        read_evidence(report),
        read_amd_certificates(certs),
        [unarmoured(read_evidence(crl), "X509 CRL") for crl in crls],
        told,
        [unarmoured(read_evidence(root), CERTIFICATE) for root in roots],
    )
    rules = [SnpRules.from_json(found) for found in read_rules(profile, "snp")] if profile is not None else []
    now = read_time(at) if at is not None else int(time.time())
    return answer(settings, check_snp(files, now=now, rules=rules))
