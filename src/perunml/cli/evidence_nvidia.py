"""`perunml evidence check nvidia`: judge reports of GPUs and NVSwitches that lie in files, offline."""

from __future__ import annotations

import time
from pathlib import Path

import click

from perunml.cli.evidence import answer, check, existing, read_hex, read_time
from perunml.cli.settings import Settings

folder = click.Path(path_type=Path, exists=True, file_okay=False)


@check.command("nvidia")
@click.option("--report", "reports", type=existing, required=True, multiple=True,
              help="A device's report: bytes, hex, or NVIDIA's JSON of several devices with their certificates; repeatable.")  # fmt: skip
@click.option(
    "--chain", type=existing, help="Its five certificates, the leaf first: PEM, DER or JSON; not with JSON reports."
)
@click.option("--nonce", required=True, metavar="HEX", help="What the devices must sign: 32 bytes.")
@click.option("--rim", type=folder, help="A folder of reference manifests (SWID tags, XML).")
@click.option("--ocsp", type=folder, help="A folder of OCSP responses (DER).")
@click.option("--simulated-root", "roots", type=existing, multiple=True,
              help="A development root that is believed: what leads to it is simulated.")  # fmt: skip
@click.option(
    "--profile", type=existing, help="A profile with `gpu` rules, as in an agreement (YAML or JSON), to judge by."
)
@click.option("--at", metavar="RFC3339", help="Judge as of this time, as 2027-01-31T00:00:00Z [default: now].")
@click.pass_obj
def nvidia(
    settings: Settings,
    reports: tuple[Path, ...],
    chain: Path | None,
    nonce: str,
    rim: Path | None,
    ocsp: Path | None,
    roots: tuple[Path, ...],
    profile: Path | None,
    at: str | None,
) -> int:
    """Judge NVIDIA GPUs and NVSwitches by their attestation reports.

    Without `--profile`, all that needs no policy is judged: form, nonce, the chain to NVIDIA's root, signatures, development
    flags, revocations in `--ocsp`, measurements by the manifests in `--rim`; what is missing is told as claims. With it, the
    appraisal of a manager runs as well: counts, versions, modes, manifests and OCSP answers in force.
    """
    from perunml.client.evidence import NvidiaFiles, check_nvidia, read_authorities, read_evidence, read_files
    from perunml.client.rules import read_rules
    from perunml.evidence.nvidia.rules import GpuRules
    from perunml.evidence.pem import CERTIFICATE, unarmoured

    files = NvidiaFiles(
        [read_evidence(report) for report in reports],
        read_evidence(chain) if chain is not None else None,
        read_hex("--nonce", nonce),
        [data for data in read_files(rim) if data.lstrip().startswith(b"<")] if rim is not None else (),
        read_authorities(ocsp) if ocsp is not None else (),
        [unarmoured(read_evidence(root), CERTIFICATE) for root in roots],
    )
    rules = [GpuRules.from_json(found) for found in read_rules(profile, "gpu")] if profile is not None else []
    now = read_time(at) if at is not None else int(time.time())
    return answer(settings, check_nvidia(files, now=now, rules=rules))
