"""Boot logs whose strong digests nobody quoted: a weak bank that fits explains nothing."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace

from evidence.judging import BINDING, codes, judged
from perunml.evidence.bundle import Bundle
from perunml.testing.bootfaults import GOOD
from perunml.testing.bootlog import ACTION, MadeLog
from perunml.testing.forge import ForgedTpm, Quoting

BANKS = ("sha1", "sha256", "sha384")
QUOTED = [("sha256", range(15)), ("sha1", range(15)), ("sha384", [7, 11, 12, 13, 14])]
"""The bank that the log leaves out; the one whose digests it tells rightly; the one whose digests it makes up."""
TEXT = b"Exit Boot Services Invocation"


def evil(log: MadeLog) -> None:
    """Another image, with another command line by GRUB; the agreed line is measured besides, and starts nothing."""
    log.events = [event for event in log.events if event.index not in (9, 11)]
    log.application(b"evil")
    log.grub("linux /vmlinuz root=/dev/vda ima=off")
    log.add(12, ACTION, GOOD.cmdline.encode("utf-16le") + bytes(2))


def forged(tpm: ForgedTpm) -> Bundle:
    """The log without SHA-256: by SHA-1 it is this boot's, by SHA-384 it is of actions alone."""
    log = copy.deepcopy(tpm.boot_log)
    log.banks = ("sha1", "sha384")
    separator = hashlib.sha384(bytes(4)).digest()
    for event in log.events:
        del event.digests["sha256"]
        if event.index not in (7, 12) and event.digests["sha384"] != separator:
            event.digests["sha384"], event.data = hashlib.sha384(TEXT).digest(), TEXT
    return tpm.bundle(BINDING, Quoting(banks=QUOTED, event_log=log.encoded))


def test_q9_a_log_that_only_sha1_proves_is_refused() -> None:
    """Q9: PCRs 0 to 10 are quoted in SHA-256, which the log leaves out; its SHA-384 digests are anybody's."""
    tpm = ForgedTpm(banks=BANKS)
    baseline = tpm.boot_baseline()
    baseline = replace(baseline, pcrs={"sha256": baseline.pcrs["sha256"]})
    assert codes(judged(tpm, tpm.bundle(BINDING), baseline)) == []
    tpm.boot_into(evil)
    assert "boot_event" in codes(judged(tpm, tpm.bundle(BINDING), baseline))
    assert "event_log_mismatch" in codes(judged(tpm, forged(tpm), baseline))
