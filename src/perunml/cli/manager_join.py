"""`perunml manager join`: a new version of the manager takes the root key of the running one over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perunml.cli.manager import KEPT, command, existing_file, folder_option, indices, worth
from perunml.cli.settings import Settings, dry_run_option
from perunml.cli.voice import table

if TYPE_CHECKING:
    from perunml.manager.custody import Kind


@command.command("join")
@click.argument("url")
@folder_option
@click.option("--profile", required=True, type=existing_file,
              help="What the running manager must prove: a ManagerProfile, or an Agreement, from your own side.")  # fmt: skip
@click.option("--signed-by", multiple=True, metavar="KEY",
              help="The key that must have signed a published profile; again for each.")  # fmt: skip
@click.option("--baseline", "baselines", multiple=True, type=existing_file,
              help="A Baseline that the profile names by its digest; again for each.")  # fmt: skip
@click.option("--simulated-ek-root", "simulated_ek_roots", multiple=True, type=existing_file,
              help="A root of software TPMs. A manager under it is simulated, whatever it proves.")  # fmt: skip
@click.option("--vendor-root", "vendor_roots", multiple=True, type=existing_file,
              help="A TPM vendor's root certificate (PEM or DER) besides those known; again for each.")  # fmt: skip
@click.option("--simulated-tee-root", "simulated_tee_roots", multiple=True, type=existing_file,
              help="A development root of TEEs. A manager under it is simulated, whatever it proves.")  # fmt: skip
@click.option("--collateral", multiple=True, type=existing_file,
              help="A bundle to judge its TEE with, in place of what the manager hands out; again for each.")  # fmt: skip
@click.option("--custody", type=click.Choice(["passphrase", "tpm", "tee"]), default="passphrase", show_default=True,
              help="Who keeps the root key here, as with `manager init`.")  # fmt: skip
@click.option(
    "--count-in-tpm",
    is_flag=True,
    help="Let a counter of the TPM tell an old copy of the folder, and hand the key on one day.",
)
@click.option("--pcrs", callback=indices, metavar="I,J,…",
              help="With --custody tpm: the PCRs that are the machine's state [default: 0-7, 9 and 11].")  # fmt: skip
@click.option("--attester", type=click.Choice(["simulated", "tpm", "tdx", "snp", "sgx"]), default="simulated", show_default=True,
              help="What makes the evidence that this machine shows.")  # fmt: skip
@click.option("--tcti", help="How the TPM is reached [default: device:/dev/tpmrm0].")
@click.option("--ima-log", type=existing_file, help="The TPM's IMA log [default: the kernel's].")
@click.option("--event-log", type=existing_file, help="The TPM's boot log [default: the kernel's].")
@click.option("--cmdline", type=existing_file, help="The kernel's command line [default: the kernel's].")
@click.option("--ek-chain", multiple=True, type=existing_file,
              help="A certificate between the EK's and its vendor's root; again for each.")  # fmt: skip
@dry_run_option
@click.pass_obj
def join(settings: Settings, /, url: str, folder: Path, custody: Kind, attester: str, **more: Any) -> None:
    """Take the root key of the manager that runs at URL over, into a new folder, when every agreement in force admits this machine. `manager restore` of its
    last backup then makes the folder the manager."""
    from perunml import operators

    passphrase = settings.passphrase("New passphrase of the manager", new=True) if custody == "passphrase" else None
    given = {
        name: more.pop(name) for name in ("simulated_ek_roots", "vendor_roots", "simulated_tee_roots", "collateral")
    }
    files = {name: more.pop(name) for name in ("ima_log", "event_log", "cmdline")}
    identity = operators.join_manager(
        url, folder, passphrase, custody=custody, attester=attester, given=given, files=files, **more
    )
    simulated = "simulated" in (attester, worth(custody))
    value = {"folder": str(folder), "url": url, "identity": identity, "simulated": simulated}
    rows = [
        ("root key of", identity),
        ("folder", folder),
        ("root key", KEPT[custody]),
        ("next", "perunml manager restore"),
    ]
    settings.voice.answer({**value, "attester": attester, "custody": custody}, table(rows))
