"""Rules recorded from a machine admit that boot, and only what parties would call the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evidence.judging import BINDING, codes, judged
from perunml.client.baselines import Rules, Sources
from perunml.client.baselines.build import assemble
from perunml.evidence.rules import BootRules
from perunml.testing.bootfaults import GOOD
from perunml.testing.bootlog import Boot
from perunml.testing.forge import ForgedTpm
from perunml.wire.errors import UsageError


@pytest.mark.parametrize("secure", [True, False])
def test_a_baseline_by_events_admits_its_machine_and_refuses_another_boot(secure: bool) -> None:
    """With Secure Boot by authorities, without by PCR 7's value; another image, line or initrd is refused."""
    boots = Boot(secure=secure)
    tpm = ForgedTpm(boots=boots)
    files = {path: set(digests) for path, digests in tpm.baseline().files.items()}
    demanded = Rules(boot=BootRules(cmdline=frozenset({"lockdown=confidentiality"})))
    baseline = assemble(files, Sources(event_log=tpm.boot_log.encoded, by_events=True), demanded)
    assert set(baseline.pcrs["sha256"]) == ({0, 1, 2} if secure else {0, 1, 2, 7})
    assert baseline.boot is not None
    assert baseline.boot.cmdline == {"lockdown=confidentiality"}
    assert codes(judged(tpm, tpm.bundle(BINDING), baseline)) == []
    for other in (
        replace(boots, image=b"evil"),
        replace(boots, initrd=b"evil"),
        replace(boots, kernel=b"evil"),
        replace(boots, cmdline="lockdown=none"),
        replace(boots, secure=not secure),
    ):
        tpm.boots = other
        tpm.boot_into(lambda log: None)
        assert codes(judged(tpm, tpm.bundle(BINDING), baseline))


def test_a_baseline_by_events_needs_a_log_with_a_strong_bank() -> None:
    """No log, chosen PCRs, or SHA-1 alone: told, not guessed."""
    log = ForgedTpm(banks=("sha1",)).boot_log.encoded
    for sources in (
        Sources(by_events=True),
        Sources(event_log=log, by_events=True),
        Sources(event_log=ForgedTpm().boot_log.encoded, by_events=True, pcrs={"sha256": [0]}),
    ):
        with pytest.raises(UsageError) as caught:
            assemble({}, sources, Rules())
        assert caught.value.code == "baseline_source"


def test_what_the_forge_boots_is_what_is_recorded() -> None:
    """The two ways to the same rules agree on what they both name."""
    tpm = ForgedTpm()
    made = assemble({}, Sources(event_log=tpm.boot_log.encoded, by_events=True), Rules()).boot
    by_hand = tpm.boot_baseline().boot
    assert made is not None
    assert by_hand is not None
    for name in ("secure_boot", "authorities", "dbx", "applications"):
        assert getattr(made, name) == getattr(by_hand, name)
    assert made.loaded >= by_hand.loaded
    assert tpm.boots == GOOD
