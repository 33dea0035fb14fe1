"""Evidence belongs to one exchange: binding, boot, clock and log go on, never back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evidence.judging import BINDING, NOW, codes, fresh_binding, judged, policy_of
from perunml.evidence.binding import binding, tpm_extra_data
from perunml.evidence.bundle import Bundle, TpmPart
from perunml.evidence.judge import Judgement, judge
from perunml.evidence.rules import TpmRules
from perunml.testing.forge import ForgedTpm, Quoting

FIELDS = {
    "purpose": "release",
    "nonce": b"\1" * 32,
    "role": "trainer",
    "session_hpke": "hpke:x",
    "session_tls": "ed25519:x",
    "manager": "ed25519:m",
    "agreement": "sha256:a",
    "run": "sha256:r",
    "host": "ek:sha256:h",
    "payload": "",
}


def bound(**changes: object) -> bytes:
    return binding(**{**FIELDS, **changes})  # type: ignore[arg-type]


def test_the_binding_has_its_documented_value() -> None:
    """The value is written down, so that another implementation can be checked against it."""
    assert bound().hex() == (
        "233775b4ebca220a6d7fee7471b7c9ef67f916b627da4fb234db64626b43ca398eeedd6c6d5f15125d48ab71e6d42b29"
    )
    assert len(tpm_extra_data(bound())) == 32


@pytest.mark.parametrize(
    ("field", "other"),
    [(name, b"\2" * 32 if name == "nonce" else "renew" if name == "purpose" else "other") for name in FIELDS],
)
def test_q31_evidence_bound_to_another_value_of_any_field_is_refused(field: str, other: object) -> None:
    """Q31, C1, C2: nonce alone is not enough; session keys, agreement, run and host are bound too."""
    tpm = ForgedTpm()
    bundle = tpm.bundle(bound(**{field: other}))
    found = judge(bundle, machine=tpm.enrolled(), policy=policy_of(tpm.baseline()), binding=bound(), now=NOW)
    assert codes(found) == ["binding_mismatch"]


def test_a_binding_of_another_length_is_a_callers_bug() -> None:
    """Nothing but 48 bytes is a binding."""
    with pytest.raises(ValueError, match="48"):
        tpm_extra_data(b"short")


def test_q27_a_quote_of_another_machine_is_refused() -> None:
    """Q27: another registered machine's genuine quote for the same binding."""
    mine, other = ForgedTpm(), ForgedTpm()
    assert "unknown_ak" in codes(judged(mine, other.bundle(BINDING)))


def test_a_relayed_quote_is_refused() -> None:
    """C1: what was made for one session's keys is worth nothing for another's."""
    tpm = ForgedTpm()
    assert codes(judged(tpm, tpm.bundle(fresh_binding()))) == ["binding_mismatch"]


class Exchange:
    """One machine and what a manager keeps of it between quotes."""

    def __init__(self, **options: object) -> None:
        self.tpm = ForgedTpm(**options)  # type: ignore[arg-type]
        self.baseline = self.tpm.baseline()
        self.clock: tuple[int, int, int] | None = None
        self.log = b""

    def judge(self, bundle: Bundle, **changes: object) -> Judgement:
        return judge(
            bundle,
            machine=self.tpm.enrolled(self.clock),
            policy=policy_of(self.baseline, **changes),
            binding=BINDING,
            now=NOW,
            prior_log=self.log,
        )

    def accept(self, bundle: Bundle | None = None) -> Judgement:
        bundle = bundle or self.tpm.collect(BINDING)
        found = self.judge(bundle)
        assert codes(found) == []
        self.clock, self.log = found.clock, found.log
        self.tpm.accepted(bundle)
        return found


def part_of(bundle: Bundle) -> TpmPart:
    part = bundle.parts[0]
    assert isinstance(part, TpmPart)
    return part


def test_an_increment_carries_only_what_is_new() -> None:
    """After an accepted quote only new lines travel, and the whole log is judged again."""
    exchange = Exchange(files={"/bin/x": b"x"})
    exchange.accept()
    exchange.tpm.measure("/bin/x", b"x")
    bundle = exchange.tpm.collect(BINDING)
    assert part_of(bundle).ima_log == exchange.tpm.lines[-1].encoded
    found = exchange.accept(bundle)
    assert found.log == exchange.tpm.ima_log
    assert found.appraisal.claims["entries"] == 3


def test_c14_a_new_file_ends_the_next_renewal() -> None:
    """C14: an unlisted file loaded after the release is refused at the renewal."""
    exchange = Exchange()
    exchange.accept()
    exchange.tpm.measure("/opt/evil", b"evil")
    assert codes(exchange.judge(exchange.tpm.collect(BINDING))) == ["not_in_policy"]


def test_a_changed_baseline_judges_the_whole_log_again() -> None:
    """Increments only save transport: a file accepted before is refused under a tighter baseline."""
    exchange = Exchange(files={"/bin/x": b"x", "/bin/y": b"y"})
    exchange.accept()
    exchange.baseline = type(exchange.baseline)(exchange.baseline.pcrs, {"/bin/x": exchange.baseline.files["/bin/x"]})
    assert codes(exchange.judge(exchange.tpm.collect(BINDING))) == ["not_in_policy"]


@pytest.mark.parametrize(("told", "expected"), [(1, []), (2, ["pcr10_mismatch"]), (5, ["pcr10_mismatch"])])
def test_i8_lines_told_before_must_be_proven_by_the_next_quote(told: int, expected: list[str]) -> None:
    """I8: lines that followed one quote's prefix may not stay unproven, but for the one that the kernel may just be
    extending."""
    exchange = Exchange(files={"/bin/x": b"x"})
    early, before = exchange.tpm.quote(BINDING), exchange.tpm.pcrs["sha256"][10]
    for _ in range(told):
        exchange.tpm.measure("/bin/x", b"x")
    exchange.accept(Bundle((replace(early, ima_log=exchange.tpm.ima_log),)))
    exchange.tpm.pcrs["sha256"][10] = before
    assert codes(exchange.judge(exchange.tpm.bundle(BINDING))) == expected


def test_lines_told_before_may_not_vanish() -> None:
    """A later log that lacks or changes what was told is refused, even when its quote fits it."""
    exchange = Exchange(files={"/bin/x": b"x", "/bin/y": b"y"})
    exchange.accept()
    twin = ForgedTpm(files={"/bin/y": b"y"})
    exchange.tpm.lines, exchange.tpm.pcrs = twin.lines, twin.pcrs
    assert codes(exchange.judge(exchange.tpm.bundle(BINDING))) == ["pcr10_mismatch"]


@pytest.mark.parametrize("offset", [1, 10_000])
def test_i22_an_offset_beyond_what_is_kept_is_refused(offset: int) -> None:
    """I22: nothing is skipped; where nothing is kept the whole log is demanded."""
    tpm = ForgedTpm()
    assert codes(judged(tpm, tpm.bundle(BINDING, Quoting(offset=offset)))) == ["ima_offset"]


def test_i22_an_increment_that_skips_lines_is_refused() -> None:
    """I22: an offset beyond the kept log's end."""
    exchange = Exchange(files={"/bin/x": b"x"})
    exchange.accept()
    exchange.tpm.measure("/bin/x", b"x")
    exchange.tpm.measure("/bin/x", b"x")
    offset = len(exchange.log) + len(exchange.tpm.lines[-1].encoded)
    assert codes(exchange.judge(exchange.tpm.bundle(BINDING, Quoting(offset=offset)))) == ["ima_offset"]


def test_i23_after_a_reboot_the_whole_log_is_demanded() -> None:
    """I23: an increment to the log of another boot is refused, the whole log of the new one accepted."""
    exchange = Exchange()
    exchange.accept()
    kept = len(exchange.log)
    exchange.tpm.reboot()
    assert codes(exchange.judge(exchange.tpm.bundle(BINDING, Quoting(offset=kept)))) == ["ima_offset"]
    found = exchange.accept()
    assert found.appraisal.boot == "tpm:2.0"


def test_keeping_a_log_without_its_clock_is_a_callers_bug() -> None:
    """A kept log belongs to a boot, which the clock names."""
    tpm = ForgedTpm()
    with pytest.raises(ValueError, match="clock"):
        judge(
            tpm.bundle(BINDING),
            machine=tpm.enrolled(),
            policy=policy_of(None),
            binding=BINDING,
            now=NOW,
            prior_log=b"x",
        )


@pytest.mark.parametrize(
    ("clock", "accepted"),
    [
        ((20_000, 5, 3, 1), True),
        ((20_001, 5, 3, 1), True),
        ((20_001, 5, 4, 1), True),
        ((20_001, 6, 0, 1), True),
        ((19_999, 5, 3, 1), False),
        ((20_001, 4, 9, 1), False),
        ((20_001, 5, 2, 1), False),
        ((19_999, 6, 0, 1), False),
    ],
)
def test_q22_counters_and_clock_do_not_go_back(clock: tuple[int, int, int, int], accepted: bool) -> None:
    """Q22: reset, restart or clock lower than last seen; equal and higher are honest."""
    tpm = ForgedTpm()
    machine = tpm.enrolled((5, 3, 20_000))
    bundle = tpm.bundle(BINDING, Quoting(clock=clock))
    found = judge(bundle, machine=machine, policy=policy_of(tpm.baseline()), binding=BINDING, now=NOW)
    assert codes(found) == ([] if accepted else ["clock_rollback"])


def test_q23_an_unsafe_clock_is_accepted_only_where_the_policy_says_so() -> None:
    """Q23: after a loss of power the clock may lie a little behind; a policy may allow that, after a new reset only."""
    tpm = ForgedTpm()
    machine = tpm.enrolled((5, 0, 20_000))
    for reset, allow, expected in (
        (6, True, []),
        (6, False, ["clock_unsafe", "clock_rollback"]),
        (5, True, ["clock_rollback"]),
    ):
        bundle = tpm.bundle(BINDING, Quoting(clock=(19_000, reset, 0, 0)))
        policy = policy_of(replace(tpm.baseline(), tpm=TpmRules(unsafe_clock=allow)))
        assert codes(judge(bundle, machine=machine, policy=policy, binding=BINDING, now=NOW)) == expected


def test_q24_a_denied_firmware_is_refused() -> None:
    """Q24: the policy's list of firmware versions."""
    tpm = ForgedTpm()
    denied = TpmRules(denied_firmware=frozenset([f"{tpm.firmware:016x}"]))
    assert codes(judged(tpm, tpm.bundle(BINDING), replace(tpm.baseline(), tpm=denied))) == ["firmware_denied"]
