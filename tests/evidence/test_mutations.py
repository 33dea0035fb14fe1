"""Random mutations of honest evidence: whatever is changed is refused, unless it says the very same. 20,000 of them here, a
million with `make test-long`; each is made by a seed that the failure names."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from evidence.judging import BINDING, NOW, policy_of
from evidence.test_vectors import nonce_of, pcrs_of
from evidence.vectors import FOLDER, needs_vectors
from perunml.evidence.baseline import Baseline
from perunml.evidence.bundle import Bundle, TpmPart
from perunml.evidence.judge import judge
from perunml.evidence.policy import Machine
from perunml.evidence.tpm.keys import check_ak, qualified_names
from perunml.evidence.tpm.quote import verify_quote
from perunml.evidence.tpm.template import check_ek_template
from perunml.testing.forge import ForgedTpm
from perunml.wire.errors import PerunError

SHORT, LONG, CHUNKS = 20_000, 1_000_000, 20
KINDS = ("p256", "p256", "p256", "rsa", "rsapss", "p384")
"""Attestation keys; most are P-256, as the attester's."""
VM = FOLDER / "measured-vm" / "A61"


@cache
def honest(kind: str) -> tuple[Machine, Baseline, TpmPart, TpmPart]:
    """A machine, its baseline, its honest evidence, and honest evidence of its for another exchange."""
    tpm = ForgedTpm(ak=kind, banks=("sha256", "sha384"))
    other = tpm.quote(b"\x11" * 48)
    return tpm.enrolled(), tpm.baseline(), tpm.quote(BINDING), other


def mutated(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """One to three changes of some bytes; `other` is honest data of the same kind to take pieces from."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at = chance.randrange(len(changed) + 1)
        size = chance.choice((1, 1, 2, 4, 8, 32, 100))
        how = chance.randrange(8)
        if how == 0 and changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        elif how == 1 and changed:
            changed[chance.randrange(len(changed))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif how == 2:
            del changed[at : at + size]
        elif how == 3:
            changed[at:at] = chance.randbytes(size)
        elif how == 4:
            changed[at:at] = changed[at : at + size]
        elif how == 5:
            changed[at : at + size] = other[at : at + size]
        elif how == 6:
            del changed[at:]
        else:
            start = chance.randrange(len(changed) + 1)
            changed[at : at + size] = changed[start : start + size]
    return bytes(changed)


def mutate(chance: random.Random, part: TpmPart, other: TpmPart) -> TpmPart:
    """The part with one field changed, now and then two."""
    for _ in range(chance.choice((1, 1, 1, 2))):
        field = chance.choice(
            ("attest", "attest", "signature", "signature", "ima_log", "pcrs", "other", "offset", "others")
        )
        if field in ("attest", "signature", "ima_log"):
            part = replace(part, **{field: mutated(chance, getattr(part, field), getattr(other, field))})
        elif field == "pcrs":
            pcrs = {bank: dict(values) for bank, values in part.pcrs.items()}
            bank = chance.choice(sorted(pcrs))
            index = chance.randrange(24)
            how = chance.randrange(5)
            if how == 0:
                pcrs[bank].pop(index, None)
            elif how == 1:
                pcrs[bank][index] = chance.randbytes(chance.choice((20, 32, 48)))
            elif how == 2:
                pcrs[bank][index] = mutated(chance, pcrs[bank].get(index, bytes(32)), bytes(64))
            elif how == 3:
                pcrs.pop(bank)
            else:
                swapped = chance.randrange(15)
                a, b = pcrs[bank].get(index % 15, b""), pcrs[bank].get(swapped, b"")
                pcrs[bank][index % 15], pcrs[bank][swapped] = b, a
            part = replace(part, pcrs=pcrs)
        elif field == "other":
            name = chance.choice(("attest", "signature", "pcrs"))
            part = replace(part, **{name: getattr(other, name)})
        elif field == "offset":
            part = replace(part, ima_offset=chance.choice((1, len(part.ima_log), 2**31, chance.randrange(1000))))
        else:
            part = replace(part, others=(chance.choice((b"", BINDING, bytes(48), chance.randbytes(48))),))
    return part


def the_same(part: TpmPart, good: TpmPart) -> bool:
    """What may be accepted: the same quote over the same values, the same log, and lines after it that are agreed, too."""
    return (part.attest, part.signature, part.pcrs, part.ima_offset, part.others) == (
        good.attest,
        good.signature,
        good.pcrs,
        0,
        (),
    ) and part.ima_log.startswith(good.ima_log)


def hunt(seed: int, count: int) -> int:
    """Judge `count` mutations; how many were refused. The rest said the same."""
    chance, refused = random.Random(seed), 0
    for number in range(count):
        machine, baseline, good, other = honest(KINDS[number % len(KINDS)])
        part = mutate(chance, good, other)
        found = judge(Bundle((part,)), machine=machine, policy=policy_of(baseline), binding=BINDING, now=NOW)
        if found.appraisal.reasons:
            refused += 1
        else:
            assert the_same(part, good), (seed, number, part)
    return refused


def test_the_honest_evidence_is_accepted() -> None:
    """Else everything below would be refused for nothing."""
    for kind in set(KINDS):
        machine, baseline, good, other = honest(kind)
        policy = policy_of(baseline)
        assert judge(Bundle((good,)), machine=machine, policy=policy, binding=BINDING, now=NOW).appraisal.reasons == ()
        assert judge(Bundle((other,)), machine=machine, policy=policy, binding=BINDING, now=NOW).appraisal.reasons


@pytest.mark.parametrize("seed", range(4))
def test_d9_no_mutation_of_honest_evidence_is_accepted(seed: int) -> None:
    """Q1, Q2, Q17, I1–I4, D9: nearly all are refused, and what is not says the same."""
    assert hunt(seed, SHORT // 4) > SHORT // 4 * 0.9


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1000 + CHUNKS))
def test_d9_no_mutation_among_a_million_is_accepted(seed: int) -> None:
    """As above, longer."""
    assert hunt(seed, LONG // CHUNKS) > LONG // CHUNKS * 0.9


@needs_vectors
@pytest.mark.parametrize("key", ["ecc", "rsa"])
def test_q1_q2_no_mutation_of_a_real_tpms_quote_verifies(key: str) -> None:
    """Q1, Q2: quotes of a real machine, 1,500 mutations of attested bytes and signature each, and all single-bit flips."""
    ak = check_ak((VM / f"ak_{key}.tpm2b_public").read_bytes())
    ek = check_ek_template((VM / "ek_rsa.tpm2b_public").read_bytes())
    attest, signature = ((VM / f"quote_{key}.{end}").read_bytes() for end in ("msg", "sig"))
    good = TpmPart(attest, signature, {"sha256": pcrs_of("A61")})
    chance = random.Random(61)

    def accepted(part: TpmPart) -> bool:
        try:
            verify_quote(part, ak, signers=qualified_names(ak, ek), extra_data=nonce_of("A61"))
        except PerunError:
            return False
        return True

    assert accepted(good)
    _each_flip(good, "attest", accepted)
    _each_flip(good, "signature", accepted)
    for _ in range(1500):
        field = chance.choice(("attest", "signature"))
        part = replace(good, **{field: mutated(chance, getattr(good, field), bytes(300))})
        assert part == good or not accepted(part)


def _each_flip(good: TpmPart, field: str, accepted: Callable[[TpmPart], bool]) -> None:
    data = getattr(good, field)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not accepted(replace(good, **{field: bytes(flipped)})), (field, bit)
