"""`perunml image`: what a machine image will measure when it boots."""

from __future__ import annotations

from pathlib import Path

import click

from perunml.cli.settings import Settings, group
from perunml.cli.voice import table

command = group("Machine images: their golden values, from the files alone. Everything is local; `document push` sends them.")  # fmt: skip
file_type = click.Path(path_type=Path, exists=True, dir_okay=False)
folder_type = click.Path(path_type=Path, exists=True, file_okay=False)


@command.command("golden")
@click.argument("image", type=folder_type)
@click.option("--keys", type=folder_type,
              help="Secure Boot keys of the machines: PK.crt, KEK*.crt, db*.crt, owner, dbx.esl [default: those beside the image].")  # fmt: skip
@click.option("--event-log", type=file_type,
              help="A trusted machine's boot log (`host boot-log`): what its firmware measures of itself, PCRs 0 to 3, 5 and 6.")  # fmt: skip
@click.option("--open-pcr", "open_pcrs", multiple=True, type=click.IntRange(0, 9), metavar="N",
              help="A PCR of the firmware, or 7 without Secure Boot, that the parties leave open; again for each.")  # fmt: skip
@click.option("--older", type=file_type, help="The baseline of the image before, which stays allowed until --until.")
@click.option("--until", metavar="RFC3339", help="The end of --older's window, as 2027-01-31T00:00:00Z.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False),
              help="The baseline that is written; nothing is overwritten.")  # fmt: skip
@click.option("--sign", is_flag=True, help="Sign it as this party, beside the baseline: OUT.signed.json.")
@click.pass_obj
def golden(
    settings: Settings,
    /,
    image: Path,
    keys: Path | None,
    event_log: Path | None,
    open_pcrs: tuple[int, ...],
    older: Path | None,
    until: str | None,
    out: Path,
    sign: bool,
) -> None:
    """Compute what IMAGE (a folder of `make image`) measures when it boots: PCRs 4, 7, 8, 9 and 11 to 14, and the digest of each
    file that its IMA log may show; write them as the baseline that an agreement names by its digest.

    Nothing is run, and no machine is trusted for it. Whoever builds the image again gets the same values.
    """
    from perunml.cli.baseline import window, write_new
    from perunml.cli.progress import progress
    from perunml.client.evidence import read_evidence
    from perunml.client.golden import compute
    from perunml.client.golden.secureboot import SecureBootKeys
    from perunml.client.identity import Identity
    from perunml.wire.dsse import unsigned

    beside = image / "keys"
    folder = keys or (beside if beside.is_dir() else None)
    found_keys = SecureBootKeys.read(folder) if folder is not None and 7 not in open_pcrs else None
    with progress("hashing", silent=settings.voice.as_json) as report:
        found = compute(
            image,
            found_keys,
            event_log=read_evidence(event_log) if event_log is not None else None,
            open_pcrs=open_pcrs,
            progress=report,
            **window(older, until),
        )
    document = unsigned("Baseline", found.baseline.as_json())
    signed = out.with_name(f"{out.name}.signed.json") if sign else None
    if signed is not None:
        document = document.signed_by(Identity.open(settings.home, settings.passphrase()).signing)
        write_new(signed, document.encode())
    write_new(out, document.payload)
    for line in found.notes:
        settings.voice.note(line)
    value = {
        "digest": found.baseline.digest,
        "file": str(out),
        "signed": str(signed) if signed else "",
        "roothash": found.roothash,
        "cmdline": found.cmdline,
        "files": found.files,
        "open": list(found.left_open),
        "pcrs": {str(index): data.hex() for index, data in found.pcrs.items()},
    }
    rows: list[tuple[str, object]] = [("digest", found.baseline.digest), ("file", out)]
    rows += [("signed", signed)] if signed else []
    rows += [("root hash", found.roothash), ("command line", found.cmdline), ("files", found.files)]
    rows += [(f"PCR {index}", data.hex()) for index, data in found.pcrs.items()]
    rows += [(f"PCR {index}", "left open: any value is allowed") for index in found.left_open]
    settings.voice.answer(value, table(rows))
