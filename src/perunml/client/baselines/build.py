"""Puts a baseline together: listed files, PCR values, rules, and perhaps a window for an older state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from perunml.client.baselines.image import list_image
from perunml.client.baselines.listing import Listing, Progress
from perunml.client.baselines.machine import list_log, pcrs_of
from perunml.client.baselines.packages import list_packages
from perunml.client.baselines.tree import list_tree
from perunml.client.codes import BASELINE_SOURCE
from perunml.evidence.baseline import Baseline, Until
from perunml.evidence.bootlog.facts import read_boot_log
from perunml.evidence.bootlog.parse import parse_boot_log
from perunml.evidence.bootlog.record import joined, recorded
from perunml.evidence.rules import STRONG_BANKS, BootRules, ImaRules, TpmRules
from perunml.wire.errors import refuse


@dataclass(frozen=True, slots=True)
class Sources:
    """Where files and PCR values come from; several may be given.

    root        a folder: its regular files, as seen from it
    image       a tar archive or a squashfs, EROFS or ext4 image
    dpkg        /var/lib/dpkg/status and the folder of the .deb files that it lists
    split_usr   packages' /bin, /sbin and /lib are folders of their own, not links into /usr
    ima_log     a trusted machine's IMA log
    event_log   a trusted machine's boot log: its replay gives the PCRs of `pcrs`
    pcrs        bank -> indices taken from the boot log; empty: 0 to 9 of its strong bank, and with boot rules those of 11
                to 14 that it extends; less those that are open
    values      bank -> index -> value, written by the caller
    by_events   of the boot log the firmware's PCRs are taken by value (and PCR 7 where Secure Boot was off), all else
                becomes rules that admit its events, beside the caller's
    exec_only   of root and image only what may be executed or loaded
    algorithms  digests made of each file
    """

    root: Path | None = None
    image: Path | None = None
    dpkg: tuple[Path, Path] | None = None
    split_usr: bool = False
    ima_log: bytes | None = None
    event_log: bytes | None = None
    pcrs: Mapping[str, Iterable[int]] = field(default_factory=dict)
    values: Mapping[str, Mapping[int, bytes]] = field(default_factory=dict)
    by_events: bool = False
    exec_only: bool = False
    algorithms: tuple[str, ...] = ("sha256",)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that the baseline gets besides."""

    boot: BootRules = field(default_factory=BootRules)
    ima: ImaRules = field(default_factory=ImaRules)
    tpm: TpmRules = field(default_factory=TpmRules)


@dataclass(frozen=True, slots=True)
class Built:
    """`notes` tells what was left out, line by line; `left_out` counts it all, `read` counts the bytes hashed."""

    baseline: Baseline
    notes: tuple[str, ...]
    left_out: int
    read: int


def build_baseline(
    sources: Sources,
    rules: Rules = Rules(),
    *,
    older: Baseline | None = None,
    until: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Built:
    """The baseline of what the sources hold. `older` stays allowed beside it up to `until` (seconds since 1970); of
    windows that `older` has itself, none is taken over.

    Raises `UsageError` (baseline_source) for sources that cannot be read or give nothing, `EvidenceRefusal` for logs.
    """
    listing = Listing(sources.algorithms, sources.exec_only)
    if sources.root is not None:
        list_tree(listing, sources.root, progress)
    if sources.image is not None:
        list_image(listing, sources.image, progress)
    if sources.dpkg is not None:
        list_packages(listing, *sources.dpkg, progress, merged_usr=not sources.split_usr)
    if sources.ima_log is not None:
        list_log(listing, sources.ima_log)
    made = assemble(listing.files, sources, rules, older=older, until=until)
    return Built(made, tuple(listing.notes), listing.left_out, listing.read)


def assemble(
    files: Mapping[str, set[str]],
    sources: Sources,
    rules: Rules,
    *,
    older: Baseline | None = None,
    until: int | None = None,
) -> Baseline:
    """As `build_baseline`, of files that are listed already."""
    if (older is None) != (until is None):
        raise refuse(BASELINE_SOURCE, "an older state and the time until which it is allowed come together")
    pcrs: dict[str, dict[int, bytes]] = {bank: dict(values) for bank, values in sources.values.items()}
    if sources.by_events:
        sources, rules = _by_events(sources, rules)
    if sources.event_log is not None:
        for bank, values in pcrs_of(sources.event_log, sources.pcrs, judged=rules.boot != BootRules()).items():
            held = pcrs.setdefault(bank, {})
            for index, value in values.items():
                if index not in rules.boot.open:
                    held.setdefault(index, value)
    elif sources.pcrs:
        raise refuse(BASELINE_SOURCE, "PCRs are taken from a boot log, and none is given", expected="a boot log")
    if not files and not pcrs:
        raise refuse(BASELINE_SOURCE, "the sources hold nothing that a baseline could list")
    windows = (Until(until, older.pcrs, older.files),) if older is not None and until is not None else ()
    made = Baseline(
        {bank: dict(sorted(values.items())) for bank, values in sorted(pcrs.items())},
        {path: frozenset(digests) for path, digests in sorted(files.items())},
        rules.boot if rules.boot != BootRules() else None,
        rules.ima,
        rules.tpm,
        windows,
    )
    return Baseline.from_json(made.as_json())  # by the same reader as everybody's


def _by_events(sources: Sources, rules: Rules) -> tuple[Sources, Rules]:
    if sources.event_log is None or sources.pcrs:
        raise refuse(BASELINE_SOURCE, "a boot log's events are taken from one, and say which PCRs are taken by value")
    facts = read_boot_log(parse_boot_log(sources.event_log), {})
    boot, exact = recorded(facts)
    if facts.bank not in STRONG_BANKS:
        raise refuse(BASELINE_SOURCE, "the boot log has no strong bank", expected=", ".join(STRONG_BANKS))
    return replace(sources, pcrs={facts.bank: sorted(exact)}), replace(rules, boot=joined(boot, rules.boot))
