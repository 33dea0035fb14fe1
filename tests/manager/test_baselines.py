"""Baselines at the manager: signed by the board that the agreement names before anything is released; long ones compiled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from manager.road import Road
from manager.world import World, code_of
from perunml.agreements.document import agreement_from_json
from perunml.api.assets import DocumentView, PushDocument
from perunml.wire.dsse import Envelope, signed


@pytest.fixture(scope="module")
def road(world: World, tmp_path_factory: pytest.TempPathFactory) -> Road:
    made = Road(world, tmp_path_factory.mktemp("road"))
    document = made.document()
    document["metadata"] = {"name": "signed-baseline"}
    document["hosts"]["trainer"]["baseline_by"] = "hospital"
    made.agreement = agreement_from_json(document)
    made.in_force(made.agreement)
    made.tpm.reboot()
    return made


def document(road: Road, by: str) -> Envelope:
    return signed("Baseline", road.tpm.baseline().as_json(), road.keys[by])


def push(road: Road, by: str, envelope: Envelope) -> DocumentView:
    return road.party[by].call("POST", "/v1/documents", DocumentView, PushDocument(document=envelope))


def signers(road: Road) -> set[str]:
    digest = road.tpm.baseline().digest
    found = road.party["clinic"].call("GET", f"/v1/documents/{digest}", PushDocument).document
    return {key for key, _ in found.signatures}


def test_keys_wait_for_the_signature_of_the_party_that_the_agreement_names(road: Road) -> None:
    """The operator's own signature is not enough, nor is one more of somebody else; the hospital's is."""
    push(road, "startup", document(road, "startup"))
    run = road.submit().run
    assert code_of(lambda: road.release(run)) == "baseline_unsigned"
    push(road, "hospital", document(road, "hospital"))
    assert road.release(run)[1].run == run
    wanted = {road.keys[name].public.text for name in ("cloud", "startup", "hospital")}
    assert signers(road) == wanted


def test_a_signature_that_another_party_made_up_neither_counts_nor_stands_in_the_way(road: Road) -> None:
    """Whoever pushes brings his own signature alone."""
    envelope = document(road, "clinic")
    forged = replace(envelope, signatures=((road.keys["hospital"].public.text, bytes(64)), *envelope.signatures))
    before = signers(road)
    push(road, "clinic", forged)
    assert signers(road) == before | {road.keys["clinic"].public.text}
    push(road, "clinic", envelope)
    assert signers(road) == before | {road.keys["clinic"].public.text}


def test_a_long_baseline_is_read_from_its_compiled_form_after_a_restart(own_world: World, tmp_path: Path) -> None:
    """Kept beside the document when that was pushed; the document itself is not opened again. With a bit changed it is refused, and
    nobody is given it."""
    own = Road(own_world, tmp_path)
    files = {f"/usr/lib/long/{i}": frozenset(["sha256:" + f"{i:064x}"]) for i in range(3000)}
    baseline = replace(own.tpm.baseline(), files={**own.tpm.baseline().files, **files})
    push(own, "cloud", signed("Baseline", baseline.as_json(), own.keys["cloud"]))
    made = own.document()
    made["metadata"] = {"name": "long-baseline"}
    made["hosts"]["trainer"]["baseline"] = baseline.digest
    own.agreement = agreement_from_json(made)
    own.in_force(own.agreement)
    own_world.restart()
    with own_world.server.services.database.write() as connection:  # type: ignore[union-attr]
        connection.run("UPDATE documents SET envelope = x'00' WHERE digest = :digest", {"digest": baseline.digest})
    run = own.submit().run
    assert own.release(run)[1].run == run
    own_world.restart()
    with own_world.server.services.database.write() as connection:  # type: ignore[union-attr]
        name = {"digest": f"compiled:{baseline.digest}"}
        kept = bytearray(connection.run("SELECT envelope FROM documents WHERE digest = :digest", name).scalar())
        kept[len(kept) // 2] ^= 1
        connection.run("UPDATE documents SET envelope = :kept WHERE digest = :digest", {"kept": bytes(kept), **name})
    own.tpm.reboot()
    assert code_of(lambda: own.release(own.submit().run)) == "custody_broken"
    where = f"/v1/documents/compiled:{baseline.digest}"
    assert code_of(lambda: own.party["cloud"].call("GET", where, PushDocument)) == "not_entitled"
