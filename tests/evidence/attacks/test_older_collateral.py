"""Attacks with collateral that is validly signed, and older than what was judged by before."""

from __future__ import annotations

import pytest

from perunml.evidence.dcap.verify import verify_dcap
from perunml.evidence.endorsements import Seen
from perunml.evidence.snp.verify import verify_snp
from perunml.testing.dcap import DAY, NOW, ForgedIntel, Says
from perunml.testing.intelca import START
from perunml.testing.snp import AmdCa, ForgedChip
from perunml.wire.errors import EvidenceRefusal


@pytest.mark.parametrize("number", [3, 2**53 - 1, 2**53, 2**64, 2**159])
def test_t5_an_older_list_of_a_number_that_is_cut_off(number: int) -> None:
    """T5: a list's number may have 20 octets, and is kept in fewer: the older of two that are cut off alike is still older."""
    chip = ForgedChip(AmdCa())
    older = chip.ca.revocations(number=number, since=START)
    known = chip.endorsements(crls=[older])
    (name, own), *_ = verify_snp(chip.report(), (), known, now=NOW).value.collateral.items()
    # what a newer list left behind, as the manager's store and a client's pin keep it
    kept = Seen(min(number + 1, 2**53 - 1), own.issued + DAY)
    with pytest.raises(EvidenceRefusal) as caught:
        verify_snp(chip.report(), (), type(known)(known.collateral, known.simulated_roots, {name: kept}), now=NOW)
    assert caught.value.code == "collateral_rollback"


def test_t5_a_development_roots_numbers_make_intels_old() -> None:
    """T5: whoever holds a development root that somebody tries out writes any number; it is remembered of that root alone."""
    one, other = ForgedIntel(), ForgedIntel()
    high = Says(number=10**6, qe_number=10**6)
    seen = verify_dcap(one.sgx_quote(), "sgx", one.endorsements(says=high), now=NOW).value.collateral
    assert not any(name.startswith("sgx:") and name.endswith("F000000") for name in seen)
    assert verify_dcap(other.sgx_quote(), "sgx", other.endorsements(seen=seen), now=NOW).value.number == 18
    with pytest.raises(EvidenceRefusal) as caught:
        verify_dcap(one.sgx_quote(), "sgx", one.endorsements(seen=seen), now=NOW)
    assert caught.value.code == "collateral_rollback"
