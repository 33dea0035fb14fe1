"""`perunml baseline`: make, import, compare and show baselines. Everything is local; `document push` sends one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perunml.cli.settings import Settings, group
from perunml.cli.voice import table

if TYPE_CHECKING:
    from perunml.client.baselines import Rules, Sources
    from perunml.evidence.baseline import Baseline

command = group("Baselines: what a host's machine must measure, as the parties agree on it.")
file_type = click.Path(path_type=Path, exists=True, dir_okay=False)
folder_type = click.Path(path_type=Path, exists=True, file_okay=False)
MAX_SHOWN = 40
"""Lines of a list in text; JSON has all."""

_LISTS: dict[str, tuple[str, str, str]] = {
    # option: group, member, help
    "--require": ("ima", "require", "A path that must have been measured."),
    "--ima-policy": ("ima", "policies", "sha256:… of an IMA policy, as loaded, of which one must be in force."),
    "--key": (
        "ima",
        "keys",
        "sha256:… of a key (SubjectPublicKeyInfo) whose file signatures stand for a listed digest.",
    ),
    "--keyring-key": ("ima", "keyrings", "sha256:… of a key that may enter a keyring."),
    "--allow-violation": ("ima", "violations", "A path at which a violation is excused."),
    "--authority": (
        "boot",
        "authorities",
        "sha256:… of a certificate or image hash that may have vouched for an image.",
    ),
    "--dbx": ("boot", "dbx", "sha256:… that the revocation list must hold."),
    "--mok": ("boot", "mok", "sha256:… that the machine owner's list may hold."),
    "--application": ("boot", "applications", "Authenticode digest of an EFI image that may be started."),
    "--loaded": ("boot", "loaded", "Digest of a kernel, initrd or section that may be loaded."),
    "--cmdline": ("boot", "cmdline", "A word that the kernel's command line must hold."),
    "--no-cmdline": ("boot", "no_cmdline", "A word that it may not hold, or NAME= for any value."),
    "--deny-firmware": ("tpm", "denied_firmware", "A TPM firmware version that is refused, 16 hex digits."),
}
_FLAGS: dict[str, tuple[str, str, str]] = {
    "--secure-boot": ("boot", "secure_boot", "Secure Boot must have been on."),
    "--allow-reload": ("ima", "reload", "The IMA policy may be loaded again while the machine runs."),
    "--allow-kexec": ("ima", "kexec", "A second boot_aggregate may follow."),
    "--allow-unsafe-clock": ("tpm", "unsafe_clock", "A TPM that lost power without a shutdown may take part at once."),
    "--discrete": ("tpm", "discrete", "The TPM must be a chip of its own."),
}


def _rule_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `build` and `import` for PCRs, rules, windows and the file that is written."""
    options: list[Callable[..., Any]] = [
        click.option("--event-log", type=file_type, help="A trusted machine's boot log; its replay gives the PCRs."),
        click.option("--pcrs", multiple=True, metavar="BANK:LIST",
                     help="PCRs taken from the boot log, as sha256:0-7,9 [default: 0 to 9 of its strong bank, and with boot rules "
                     "those of 11 to 14 that it extends]."),
        click.option("--by-events", is_flag=True,
                     help="Of the boot log take only the firmware's PCRs by value, and rules that admit all other events."),
        click.option("--pcr", "values", multiple=True, metavar="BANK:N=HEX", help="A PCR's value, written out."),
        click.option("--open-pcr", multiple=True, type=click.IntRange(0, 14), metavar="N",
                     help="A PCR of 0 to 9 or 11 to 14 that the parties leave open."),
        *(click.option(name, _variable(group, member), multiple=True, metavar="TEXT", help=text)
          for name, (group, member, text) in _LISTS.items()),
        *(click.option(name, _variable(group, member), is_flag=True, help=text)
          for name, (group, member, text) in _FLAGS.items()),
        click.option("--older", type=file_type, help="A baseline whose state stays allowed until --until."),
        click.option("--until", metavar="RFC3339", help="The end of --older's window, as 2027-01-31T00:00:00Z."),
        click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True,
                     help="The document that is written; nothing is overwritten."),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def _variable(group: str, member: str) -> str:
    return f"{group}_{member}"


@command.command("build")
@click.option("--root", type=folder_type, help="A root folder: its regular files, by their paths from there.")
@click.option("--image", type=file_type, help="A tar archive, or a squashfs, EROFS or ext4 image.")
@click.option("--dpkg", type=file_type, metavar="STATUS", help="A /var/lib/dpkg/status; needs --packages.")
@click.option("--packages", type=folder_type, help="The folder of the .deb files that --dpkg lists.")
@click.option("--split-usr", is_flag=True, help="The packages' /bin, /sbin and /lib are no links into /usr.")
@click.option("--ima-log", type=file_type, help="A trusted machine's IMA log: the files that it measured.")
@click.option("--exec-only", is_flag=True,
              help="Of --root and --image only executables, libraries, scripts, byte code and modules.")  # fmt: skip
@click.option("--hash", "algorithms", multiple=True, type=click.Choice(["sha256", "sha384", "sha512"]),
              help="Digests made of each file [default: sha256].")  # fmt: skip
@_rule_options
@click.pass_obj
def build(settings: Settings, /, out: Path, older: Path | None, until: str | None, **options: Any) -> None:
    """Make a baseline of what is trusted: a root folder, an image, packages, a machine's logs; several may be given.

    What cannot be listed (other file systems, weak digests, violations) is told and stays refused.
    """
    from perunml.cli.progress import progress
    from perunml.client.baselines import build_baseline

    voice = settings.voice
    with progress("hashing", silent=voice.as_json) as report:
        built = build_baseline(_sources(options), _rules(options), progress=report, **window(older, until))
    _write(settings, built.baseline, out, built.notes, built.left_out)


@command.command("import")
@click.argument("file", type=file_type)
@_rule_options
@click.pass_obj
def import_(
    settings: Settings, /, file: Path, out: Path, older: Path | None, until: str | None, **options: Any
) -> None:
    """Import the JSON runtime policy in FILE (the form of Keylime). What has no like here is told, line by line, and is
    not allowed; PCRs and further rules come from the options."""
    from dataclasses import replace

    from perunml.client.baselines import assemble, import_keylime
    from perunml.client.evidence import read_evidence

    found = import_keylime(read_evidence(file))
    rules = _rules(options)
    ima = replace(rules.ima, keys=rules.ima.keys | found.rules.keys, keyrings=rules.ima.keyrings | found.rules.keyrings)
    made = assemble(found.files, _sources(options), replace(rules, ima=ima), **window(older, until))
    _write(settings, made, out, found.notes, len(found.notes))


@command.command("diff")
@click.argument("before", type=file_type)
@click.argument("after", type=file_type)
@click.pass_obj
def diff(settings: Settings, before: Path, after: Path) -> None:
    """Say what differs between two baselines, and which of it widens what a machine may do."""
    from perunml.client.evidence import read_profile
    from perunml.evidence.difference import difference

    first, second = read_profile(before), read_profile(after)
    changes = difference(first, second)
    effects = ("widens", "narrows", "both")
    counts = {effect: sum(change.effect == effect for change in changes) for effect in effects}
    value = {"before": first.digest, "after": second.digest, **counts, "changes": [c.as_json() for c in changes]}
    rows = [("before", first.digest), ("after", second.digest), *((name, counts[name]) for name in effects)]
    settings.voice.answer(value, [*table(rows), *_some([change.sentence for change in changes])])


@command.command("show")
@click.argument("file", type=file_type)
@click.pass_obj
def show(settings: Settings, file: Path) -> None:
    """Show what the baseline in FILE demands and allows."""
    from perunml.client.evidence import read_profile

    found = read_profile(file)
    settings.voice.answer(_value(found), _lines(found))


@command.command("schema")
@click.pass_obj
def schema(settings: Settings) -> None:
    """Print the JSON Schema of baselines."""
    import json

    from perunml.evidence.schema import baseline_schema

    found = baseline_schema()
    settings.voice.answer(found, json.dumps(found, indent=2).splitlines())


def write_new(out: Path, data: bytes) -> None:
    """Write a file that is not there. A document goes out in canonical form, so that the file's SHA-256 is the digest that agreements
    name. Raises `UsageError` (already_exists)."""
    from perunml.client.codes import ALREADY_EXISTS
    from perunml.wire.errors import refuse

    try:
        with out.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise refuse(ALREADY_EXISTS, "the file is there already", seen=str(out)) from None


def _write(settings: Settings, baseline: Baseline, out: Path, notes: Iterable[str], left_out: int) -> None:
    """Write the document, and say what it holds and what was left out."""
    from perunml.wire.dsse import unsigned

    write_new(out, unsigned("Baseline", baseline.as_json()).payload)
    told = list(notes)
    for line in told:
        settings.voice.note(line)
    if left_out > len(told):
        settings.voice.note(f"and {left_out - len(told)} more were left out")
    value = {**_value(baseline), "file": str(out), "left_out": left_out, "notes": told}
    settings.voice.answer(value, [*table([("file", out), ("left out", left_out)]), *_lines(baseline)])


def _value(baseline: Baseline) -> dict[str, Any]:
    shown = {name: value for name, value in baseline.as_json().items() if name in ("pcrs", "boot", "ima", "tpm")}
    windows = [{"end": w.as_json()["end"], "files": len(w.files)} for w in baseline.until]
    return {"digest": baseline.digest, "files": len(baseline.files), **shown, "until": windows}


def _lines(baseline: Baseline) -> list[str]:
    rows: list[tuple[str, object]] = [("digest", baseline.digest), ("files", len(baseline.files))]
    for bank, values in baseline.pcrs.items():
        rows += [(f"{bank}:{index}", value.hex()) for index, value in values.items()]
    for group_name in ("boot", "ima", "tpm"):
        rules = getattr(baseline, group_name)
        for name, value in (rules.as_json() if rules is not None else {}).items():
            rows += [(f"{group_name}.{name}", item) for item in (value if isinstance(value, list) else ["yes"])]
    rows += [("until", f"{w.as_json()['end']}: {len(w.files)} files") for w in baseline.until]
    if not any(set(range(10)) <= set(values) for values in baseline.pcrs.values()) and baseline.boot is None:
        rows.append(("incomplete", "PCRs 0 to 9 of one bank are not all named: every machine will be refused"))
    return table(rows)


def _sources(options: dict[str, Any]) -> Sources:
    from perunml.client.baselines import Sources
    from perunml.client.evidence import read_evidence

    if (options.get("dpkg") is None) != (options.get("packages") is None):
        raise click.UsageError("--dpkg and --packages come together.")

    def log(name: str) -> bytes | None:
        return read_evidence(options[name]) if options.get(name) is not None else None

    return Sources(
        root=options.get("root"),
        image=options.get("image"),
        dpkg=(options["dpkg"], options["packages"]) if options.get("dpkg") is not None else None,
        split_usr=bool(options.get("split_usr")),
        ima_log=log("ima_log"),
        event_log=log("event_log"),
        pcrs=dict(map(_pcr_list, options["pcrs"])),
        values=_pcr_values(options["values"]),
        by_events=bool(options["by_events"]),
        exec_only=bool(options.get("exec_only")),
        algorithms=tuple(dict.fromkeys(options.get("algorithms") or ("sha256",))),
    )


def _rules(options: dict[str, Any]) -> Rules:
    from perunml.client.baselines import Rules
    from perunml.evidence.rules import BootRules, ImaRules, TpmRules

    found: dict[str, dict[str, Any]] = {"boot": {}, "ima": {}, "tpm": {}}
    for group_name, member, _ in (*_LISTS.values(), *_FLAGS.values()):
        if given := options[_variable(group_name, member)]:
            found[group_name][member] = given if given is True else sorted(set(given))
    if options["open_pcr"]:
        found["boot"]["open"] = sorted(set(options["open_pcr"]))
    return Rules(BootRules.from_json(found["boot"]), ImaRules.from_json(found["ima"]), TpmRules.from_json(found["tpm"]))


def window(older: Path | None, until: str | None) -> dict[str, Any]:
    """The arguments of `build_baseline` for --older and --until. Raises `click.UsageError` for one without the other."""
    from perunml.client.evidence import read_profile
    from perunml.wire.timestamps import parse_time

    if (older is None) != (until is None):
        raise click.UsageError("--older and --until come together.")
    if older is None or until is None:
        return {}
    return {"older": read_profile(older), "until": parse_time(until)}


def _pcr_list(text: str) -> tuple[str, list[int]]:
    """``sha256:0-7,9``."""
    bank, _, listed = text.partition(":")
    indices: set[int] = set()
    for part in listed.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()) or not int(first) <= int(last or first) <= 23:
            raise click.UsageError(f"--pcrs is BANK:LIST, as sha256:0-7,9; not {text!r}.")
        indices |= set(range(int(first), int(last or first) + 1))
    return bank, sorted(indices)


def _pcr_values(given: Iterable[str]) -> dict[str, dict[int, bytes]]:
    found: dict[str, dict[int, bytes]] = {}
    for text in given:
        pcr, _, value = text.partition("=")
        bank, _, index = pcr.partition(":")
        try:
            found.setdefault(bank, {})[int(index)] = bytes.fromhex(value)
        except ValueError:
            raise click.UsageError(f"--pcr is BANK:N=HEX; not {text!r}.") from None
    return found


def _some(lines: list[str]) -> list[str]:
    left = len(lines) - MAX_SHOWN
    return lines[:MAX_SHOWN] + ([f"and {left} more; -o json has all"] if left > 0 else [])
