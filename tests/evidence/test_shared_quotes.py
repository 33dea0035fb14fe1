"""One quote for several exchanges: each judge finds its own binding in it, and nothing else will do."""

from __future__ import annotations

import hashlib
import secrets

import pytest

from evidence.judging import BINDING, codes, fresh_binding, judged
from perunml.evidence.binding import BINDING_SIZE, MAX_BINDINGS, shared_extra_data, tpm_extra_data
from perunml.evidence.bundle import Bundle, TpmPart
from perunml.testing.forge import ForgedTpm, with_part
from perunml.wire.errors import UsageError


def shared(tpm: ForgedTpm, count: int) -> tuple[Bundle, tuple[bytes, ...]]:
    """The bundle for `BINDING` of a quote that serves `count` exchanges, and the others' bindings."""
    bundle = tpm.collect_many([BINDING, *(fresh_binding() for _ in range(count - 1))])[BINDING]
    part = bundle.parts[0]
    assert isinstance(part, TpmPart)
    return bundle, part.others


@pytest.mark.parametrize("count", [1, 2, 5, MAX_BINDINGS])
def test_one_quote_serves_several_exchanges(count: int) -> None:
    """Each bundle of the batch is good for its own binding, alone or with as many as may be."""
    tpm = ForgedTpm()
    bindings = [BINDING, *(fresh_binding() for _ in range(count - 1))]
    bundles = tpm.collect_many(bindings)
    assert len({bundle.parts[0].attest for bundle in bundles.values()}) == 1  # type: ignore[union-attr]
    for binding in bindings:
        bundle = Bundle.from_json(bundles[binding].as_json())
        assert bundle == bundles[binding]
        assert codes(judged(tpm, bundle, binding=binding)) == []


def test_n3_a_quote_of_other_exchanges_is_refused() -> None:
    """N3: my binding is not among those that were signed."""
    tpm = ForgedTpm()
    stranger = fresh_binding()
    assert codes(judged(tpm, tpm.collect_many([stranger, fresh_binding()])[stranger])) == ["binding_mismatch"]


def test_q31_a_list_that_is_not_what_was_signed_is_refused() -> None:
    """Q31: one binding left out, one added, one changed."""
    tpm = ForgedTpm()
    bundle, others = shared(tpm, 3)
    for told in ((), others[:1], tuple(sorted([*others, bytes(BINDING_SIZE)])), (bytes(BINDING_SIZE), others[1])):
        assert codes(judged(tpm, with_part(bundle, others=told))) == ["binding_mismatch"], told


def test_a_list_in_another_spelling_is_refused() -> None:
    """Unsorted, one of them twice, or my own among the others: one spelling per meaning, even of what was signed."""
    tpm = ForgedTpm()
    bundle, others = shared(tpm, 3)
    for told in (others[::-1], (others[0], *others), tuple(sorted([BINDING, *others]))):
        assert codes(judged(tpm, with_part(bundle, others=told))) == ["binding_mismatch"], told


def test_c15_another_exchanges_bundle_of_the_same_quote_is_refused() -> None:
    """A run's evidence does not serve another run of the same batch as it stands: each names its own among the signed."""
    tpm = ForgedTpm()
    first, second = BINDING, fresh_binding()
    bundles = tpm.collect_many([first, second])
    assert codes(judged(tpm, bundles[second])) == ["binding_mismatch"]


def test_n6_a_nonce_beside_or_inside_the_hash_is_refused() -> None:
    """N6: hashes of more, of less or of glued bindings are none of the batch's."""
    with pytest.raises(ValueError, match="bindings"):
        tpm_extra_data(BINDING + BINDING)
    with pytest.raises(ValueError, match="bindings"):
        tpm_extra_data(*[fresh_binding() for _ in range(MAX_BINDINGS + 1)])
    assert shared_extra_data(BINDING, [BINDING[:-1]]) is None
    assert shared_extra_data(BINDING, sorted(fresh_binding() for _ in range(MAX_BINDINGS))) is None
    assert tpm_extra_data(BINDING) == hashlib.sha256(BINDING).digest()


@pytest.mark.parametrize("others", ["x", [1], [""], ["AAAA"], ["A" * 64] * MAX_BINDINGS, None])
def test_a_list_of_another_form_is_malformed(others: object) -> None:
    """Texts of 48 bytes, fewer than 64 of them."""
    told = ForgedTpm().bundle(BINDING).as_json()
    told["parts"][0]["others"] = others
    with pytest.raises(UsageError, match="malformed"):
        Bundle.from_json(told)


def test_bindings_are_independent_of_their_order() -> None:
    """Sorted before they are hashed."""
    some = [secrets.token_bytes(BINDING_SIZE) for _ in range(4)]
    assert tpm_extra_data(*some) == tpm_extra_data(*some[::-1])
