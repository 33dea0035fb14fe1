"""An SGX enclave's quotes under Gramine."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from attesters.devices import GramineTree
from perunml.attesters.gramine import Gramine
from perunml.attesters.tee import TeeAttester
from perunml.attesters.tree import Files
from perunml.evidence.parts import SgxPart
from perunml.wire.errors import EvidenceRefusal, Unreachable

BINDING = bytes(range(48))


def test_an_enclave_quotes_the_binding(tmp_path: Path) -> None:
    """Report data are written, then the quote is read."""
    attester = TeeAttester(Gramine(GramineTree(tmp_path)))
    (part,) = attester.collect(BINDING).parts
    assert isinstance(part, SgxPart)
    assert BINDING + bytes(16) in part.quote
    assert attester.kind == "sgx"
    assert {*attester.collect_many([b"a" * 48, b"b" * 48])} == {b"a" * 48, b"b" * 48}


@pytest.mark.parametrize("kind", ["none", "epid", ""])
def test_an_enclave_that_attests_otherwise_is_refused(tmp_path: Path, kind: str) -> None:
    """The manifest's `sgx.remote_attestation` is not "dcap"."""
    with pytest.raises(Unreachable, match="tee_unavailable"):
        Gramine(GramineTree(tmp_path, kind))


def test_outside_of_gramine_there_is_no_enclave(tmp_path: Path) -> None:
    """No pseudo-files, or one that cannot be read."""
    with pytest.raises(Unreachable, match="tee_unavailable"):
        Gramine(Files(tmp_path))
    (tmp_path / "dev/attestation/attestation_type").mkdir(parents=True)
    with pytest.raises(Unreachable, match="tee_unavailable"):
        Gramine(Files(tmp_path))


def test_a_quoting_enclave_that_fails_is_told(tmp_path: Path) -> None:
    """Gramine's error, and a quote that is empty or over what another thread wrote."""
    tree = GramineTree(tmp_path)
    attester = TeeAttester(Gramine(tree))
    tree.failing = errno.EACCES
    with pytest.raises(Unreachable, match="Permission denied") as caught:
        attester.collect(BINDING)
    assert caught.value.code == "tee_refused"
    tree.failing = 0
    for wrong in (lambda path, data: None, lambda path, data: setattr(tree, "data", bytes(64))):
        tree.data = b""
        tree.write = wrong  # type: ignore[method-assign]  # what another thread does
        with pytest.raises(EvidenceRefusal, match="odd_answer"):
            attester.collect(BINDING)
