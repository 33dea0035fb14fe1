"""`perunml collateral`: what vendors say about their hardware, collected into a signed, dated file; shown."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perunml.cli.settings import Settings, group
from perunml.cli.voice import columns, table

if TYPE_CHECKING:
    from perunml.client.collateral import Bundle

command = group(
    "Vendors' collateral: certificates, revocation lists, TCB levels and manifests that TEEs and GPUs are judged by."
)
existing = click.Path(path_type=Path, exists=True, dir_okay=False)


@command.command("bundle")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True,
              help="The signed file that is written; nothing is overwritten.")  # fmt: skip
@click.option("--from", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Take the vendors' files from this folder, and ask nobody.")  # fmt: skip
@click.option("--quote", "quotes", type=existing, multiple=True, help="An SGX or TDX quote, whose platform is meant.")
@click.option("--fmspc", "fmspcs", multiple=True, metavar="TEE:FMSPC:CA",
              help="A kind of platforms, as tdx:50806F000000:platform.")  # fmt: skip
@click.option("--report", "reports", type=existing, multiple=True, help="An SEV-SNP report, whose chip is meant.")
@click.option("--product", "products", multiple=True,
              help="A product line of AMD's (Milan, Genoa, Turin); also that of version 2 reports.")  # fmt: skip
@click.option("--certs", type=existing, multiple=True,
              help="An NVIDIA device's certificates (PEM, the leaf first), or NVIDIA's JSON of devices with their reports.")  # fmt: skip
@click.option("--rim-id", "rim_ids", multiple=True, metavar="ID",
              help="A manifest's name, as NV_GPU_DRIVER_GH100_550.90.07.")  # fmt: skip
@click.option("--pcs", metavar="URL", help="A cache of Intel's service (PCCS) instead of Intel.")
@click.option("--kds", metavar="URL", help="A cache of AMD's service instead of AMD.")
@click.option("--rim", metavar="URL", help="A cache of NVIDIA's manifests instead of NVIDIA.")
@click.option("--ocsp", metavar="URL", help="A relay to NVIDIA's OCSP responder instead of NVIDIA.")
@click.option("--tls-ca", type=existing, help="Certificates (PEM) by which those caches are known; never the vendors.")
@click.pass_obj
def bundle(settings: Settings, /, out: Path, folder: Path | None, tls_ca: Path | None, **options: Any) -> None:
    """Collect everything that verification needs for the platforms, chips and devices given, and sign it with this identity.

    It is asked of the vendors' own services over TLS, or with `--from` of nobody. All of it, or no file. A manager judges by
    it once it lies in its folder `collateral/` and its operator admitted the signer (`perunml manager init --collateral-signer`).
    """
    from perunml.client.codes import ALREADY_EXISTS
    from perunml.client.collateral import Services, make_bundle, read_wanted
    from perunml.client.evidence import read_evidence
    from perunml.client.home import write_file
    from perunml.client.identity import Identity, PublicIdentity
    from perunml.wire.errors import refuse

    services = {name: options[name] for name in ("pcs", "kds", "rim", "ocsp") if options[name] is not None}
    if folder is not None and (services or tls_ca is not None):
        raise click.UsageError("--from asks nobody: it comes without --pcs, --kds, --rim, --ocsp and --tls-ca.")
    if tls_ca is not None:
        services["tls_ca"] = read_evidence(tls_ca).decode("ascii", "replace")
    quotes, reports, certs = (
        [read_evidence(path) for path in options[name]] for name in ("quotes", "reports", "certs")
    )
    wanted = read_wanted(quotes, options["fmspcs"], reports, options["products"], certs, options["rim_ids"])
    asked = Services(**services)
    PublicIdentity.load(settings.home)  # says what is missing before it asks for a passphrase
    signer = Identity.open(settings.home, settings.passphrase()).signing
    made = make_bundle(wanted, signer, now=int(time.time()), folder=folder, services=asked)
    try:
        write_file(out, made.envelope.encode(), replace=False)
    except FileExistsError:
        raise refuse(ALREADY_EXISTS, "the file is there already", seen=str(out)) from None
    for name, why in made.left_out:
        settings.voice.note(f"left out: {name}: {why}")
    value, lines = _told(out, made)
    value["left_out"] = [{"file": name, "why": why} for name, why in made.left_out]
    settings.voice.answer(value, lines)


@command.command("show")
@click.argument("file", type=existing)
@click.pass_obj
def show(settings: Settings, file: Path) -> None:
    """Show what the bundle in FILE holds, who signed it, until when each item holds, and which ends first.

    Its own signatures are checked. What the vendors signed is judged with the evidence (`perunml evidence check`).
    """
    from perunml.client.collateral import describe, past, read_bundle
    from perunml.client.evidence import read_evidence

    found = read_bundle(read_evidence(file))
    value, lines = _told(file, found)
    items = describe(found.collateral)
    over = list(past(items, int(time.time())))
    shown = [item.as_json() for item in items]
    value |= {"items": shown, "past": len(over)}
    rows = [(one["kind"], one["what"], one["issued"], one["until"] or "no end") for one in shown]
    lines += [*table([("past", len(over))]), "", *columns(("kind", "what", "issued", "until"), rows)]
    settings.voice.answer(value, lines)


def _told(file: Path, found: Bundle) -> tuple[dict[str, Any], list[str]]:
    """What both verbs say of a bundle, as JSON and in lines."""
    from perunml.client.collateral import LISTS, describe, first_to_end
    from perunml.wire.timestamps import format_time

    counts = {name: len(getattr(found.collateral, name)) for name in LISTS}
    first = first_to_end(describe(found.collateral))
    made = format_time(found.collateral.made)
    value = {
        "file": str(file),
        "digest": found.envelope.digest,
        "made": made,
        "signers": list(found.signers),
        "counts": counts,
        "expires": first.as_json() if first is not None else None,
    }
    rows: list[tuple[str, object]] = [("file", file), ("digest", found.envelope.digest), ("made", made)]
    rows += [("signer", key) for key in found.signers]
    rows += list(counts.items())
    if first is not None:
        rows.append(("ends first", f"{first.as_json()['until']}: {first.kind} {first.what}"))
    return value, table(rows)
