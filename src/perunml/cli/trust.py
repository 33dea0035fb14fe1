"""`perunml trust`: verify a manager's evidence against a profile, and pin it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perunml.cli.settings import Command, Settings
from perunml.cli.voice import table

if TYPE_CHECKING:
    from perunml.client.trust import Trusted

file = click.Path(path_type=Path, dir_okay=False, exists=True)
_KEPT = {
    "passphrase": "under a passphrase: whoever knows it has every key of this manager",
    "tpm": "in the machine's TPM, while its PCRs {pcrs} are what they were when the manager was made",
    "tee": "in the TEE, for the measurement that it proves",
}


@click.command(cls=Command)
@click.argument("url")
@click.option("--profile", required=True, type=file,
              help="What the manager must prove: a ManagerProfile, or an Agreement, from your own side; never from the URL.")  # fmt: skip
@click.option("--signed-by", multiple=True, metavar="KEY",
              help="The key that must have signed a published profile; again for each.")  # fmt: skip
@click.option("--baseline", "baselines", multiple=True, type=file,
              help="A Baseline that the profile names by its digest; again for each.")  # fmt: skip
@click.option("--vendor-root", "vendor_roots", multiple=True, type=file,
              help="A TPM vendor's root certificate (PEM or DER) besides those known; again for each.")  # fmt: skip
@click.option("--simulated-ek-root", "simulated_ek_roots", multiple=True, type=file,
              help="A root of software TPMs. A manager under it is simulated, whatever it proves.")  # fmt: skip
@click.option("--revocations", multiple=True, type=file,
              help="A revocation list (DER) of a TPM's issuer; again for each.")  # fmt: skip
@click.option("--collateral", multiple=True, type=file,
              help="A bundle to judge its TEE with, in place of what the manager hands out; again for each.")  # fmt: skip
@click.option("--simulated-tee-root", "simulated_tee_roots", multiple=True, type=file,
              help="A development root (PEM or DER). A TEE under it is simulated, whatever it proves.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Verify, and pin nothing.")
@click.pass_obj
def command(
    settings: Settings,
    /,
    url: str,
    profile: Path,
    signed_by: tuple[str, ...],
    baselines: tuple[Path, ...],
    dry_run: bool,
    **given: Any,
) -> None:
    """Ask the manager at URL (https://host:port) for fresh evidence over its keys, judge it by a profile, and pin the keys.

    Nothing but a nonce is sent, and a credential to its TPM. Needs no passphrase.
    """
    from perunml.client.trust import Given, examine, keep, read_profile, seen_before

    wanted = read_profile(profile, baselines, signed_by)
    found = examine(url, wanted, given=Given.read(**given), seen=seen_before(settings.home))
    if not dry_run:
        keep(settings.home, found)
    origin = [one.model_dump(mode="json") for one in found.custody.origin]
    value = {**found.pin.model_dump(mode="json"), "claims": dict(found.claims), "origin": origin}
    settings.voice.answer(value, table(list(_rows(found, dry_run))))


def _rows(found: Trusted, dry_run: bool) -> Iterator[tuple[str, object]]:
    pin = found.pin
    yield "verified" if dry_run else "pinned", pin.url
    yield "identity", pin.identity
    yield "profile", f"{pin.profile} (proves nothing: for trying out only)" if pin.simulated else pin.profile
    for name in found.identities:
        yield "machine", name
    yield "root key", _KEPT[pin.custody].format(pcrs=", ".join(map(str, found.custody.pcrs)))
    for before in found.custody.origin:
        yield "which came from", f"{before.profile} on {'+'.join(before.identities)}, kept by {before.custody}"
    if pin.judged_by:
        yield "judged by", pin.judged_by
    yield "tls key", pin.tls
    for name, text in _told("", found.claims):
        yield name, text


def _told(before: str, claims: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the evidence tells, a line for each that has one."""
    for name, value in claims.items():
        if isinstance(value, Mapping):
            yield from _told(f"{before}{name}.", value)
        elif isinstance(value, (list, tuple)) and all(isinstance(one, (str, int)) for one in value):
            yield before + name, ", ".join(map(str, value)) or "none"
        elif isinstance(value, bool):
            yield before + name, "yes" if value else "no"
        elif isinstance(value, (str, int)):
            yield before + name, str(value)
