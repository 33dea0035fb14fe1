"""`perunml infer` against a real gateway; the model is a function, the manager's server is away."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from cli.kit import PASSPHRASE, Party
from perunml.client.home import Home
from perunml.client.identity import Identity
from perunml.serving.forms import ModelForm
from perunml.serving.tensors import Tensor, TensorForm, from_numbers, to_numbers
from perunml.testing.service import MODEL, RUN, Client, World, pin_of
from perunml.wire.identity import SigningKey


class Doubles:
    """A model that doubles."""

    def forms(self) -> ModelForm:
        return ModelForm("doubles", (TensorForm("x", "FP64", (-1,)),), (TensorForm("y", "FP64", (-1,)),))

    def infer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        values = [2 * value for value in to_numbers(inputs[0])]
        return [from_numbers("y", "FP64", (len(values),), values)]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Party:
    party = Party(tmp_path_factory.mktemp("clinic") / "home")
    party.ok("id", "create", "--name", "clinic")
    return party


@pytest.fixture(scope="module")
def service(clinic: Party) -> Iterator[World]:
    """A service whose agreement names the clinic."""
    key = Identity.open(Home(clinic.home), PASSPHRASE).signing
    world = World(Doubles(), clinic=Client("clinic", key))
    Home(clinic.home).save_pin(pin_of(world.manager))
    with world.gateway():
        yield world


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    path = tmp_path / "patient.json"
    path.write_text('{"x": [1, 2]}')
    return path


def test_an_answer_and_its_receipt(service: World, clinic: Party, patient: Path) -> None:
    """The manager need not be there: it was checked once, and the service's certificate is its word."""
    said = clinic.ok("infer", RUN, patient, "--endpoint", service.endpoint)
    assert said["outputs"] == {"y": [2, 4]}
    assert (said["model"], said["simulated"]) == (MODEL, True)
    body = clinic("-o", "json", "receipt", "verify", said["receipt"], passphrase=None).json["receipt"]
    assert (body["party"], body["model"]) == ("clinic", MODEL)
    text = clinic("infer", RUN, patient, "--endpoint", service.endpoint).out
    assert "simulated: the service's host proved nothing" in text


def test_the_proxy_verb_serves_plain_clients_until_it_is_stopped(service: World, clinic: Party, tmp_path: Path) -> None:
    """A process of its own, stopped by SIGTERM; receipts are kept where it was told, and hold offline."""
    reading, writing = os.pipe()
    os.write(writing, PASSPHRASE)
    os.close(writing)
    program = subprocess.Popen(
        [sys.executable, "-m", "perunml", "--home", clinic.home, "--passphrase-fd", str(reading), "-o", "json", "proxy", RUN, "--listen", "127.0.0.1:0",
         "--endpoint", service.endpoint, "--receipts", tmp_path / "receipts"], stdout=subprocess.PIPE, text=True, pass_fds=(reading,),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip
    os.close(reading)
    assert program.stdout
    try:
        url = json.loads(program.stdout.readline())["url"]
        asked = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [2], "data": [1.5, 2]}]}
        found = httpx.post(f"{url}/v2/models/serve/infer", json=asked)
        assert found.json()["outputs"] == [{"name": "y", "datatype": "FP64", "shape": [2], "data": [3.0, 4.0]}]
    finally:
        program.terminate()
        assert program.wait(30) == 0
        program.stdout.close()
    (kept,) = (tmp_path / "receipts").iterdir()
    assert clinic("-o", "json", "receipt", "verify", kept, passphrase=None).json["verified"]


def test_the_proxy_verb_refuses_before_it_listens(service: World, clinic: Party, nobody: Party) -> None:
    """Another manager's certificate; an address that is not this machine's own."""
    assert clinic.refused("proxy", RUN, "--endpoint", service.endpoint, "--listen", "0.0.0.0:0")[1] == "listen_refused"
    nobody.ok("id", "create", "--name", "clinic")
    Home(nobody.home).save_pin(pin_of(SigningKey.generate()))
    assert nobody.refused("proxy", RUN, "--endpoint", service.endpoint, "--listen", "127.0.0.1:0") == (
        14,
        "bad_signature",
    )


def test_inputs_from_stdin(service: World, clinic: Party, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`-` for stdin, and the receipt where it is wanted."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"x": [3]}')))
    kept = tmp_path / "receipt.json"
    said = clinic.ok("infer", RUN, "-", "--endpoint", service.endpoint, "--receipt", kept)
    assert said["outputs"] == {"y": [6]}
    assert said["receipt"] == str(kept)


def test_an_altered_receipt(service: World, clinic: Party, patient: Path, tmp_path: Path) -> None:
    """Exit code 14 for each part that was changed."""
    kept = tmp_path / "receipt.json"
    clinic.ok("infer", RUN, patient, "--endpoint", service.endpoint, "--receipt", kept)
    honest = json.loads(kept.read_bytes())
    for member in ("request_digest", "response_digest"):
        kept.write_text(json.dumps({**honest, member: "sha256:" + "0" * 64}))
        assert clinic.refused("receipt", "verify", kept, passphrase=None) == (14, "receipt_mismatch")
    kept.write_text(json.dumps({**honest, "receipt": honest["certificate"]}))
    assert clinic.refused("receipt", "verify", kept, passphrase=None)[0] == 14


def test_a_stranger_hears_it_from_the_service(service: World, patient: Path, nobody: Party) -> None:
    """Exit code 10: a key that the agreement does not name."""
    nobody.ok("id", "create", "--name", "clinic")
    Home(nobody.home).save_pin(pin_of(service.manager))
    found = nobody.refused("infer", RUN, patient, "--endpoint", service.endpoint)
    assert found == (10, "client_not_in_agreement")


def test_a_service_that_another_manager_certified(service: World, clinic: Party, patient: Path, nobody: Party) -> None:
    """Nothing is sent to it; exit code 14."""
    nobody.ok("id", "create", "--name", "clinic")
    Home(nobody.home).save_pin(pin_of(SigningKey.generate()))
    found = nobody.refused("infer", RUN, patient, "--endpoint", service.endpoint)
    assert found == (14, "bad_signature")


def test_another_service_than_the_one_asked_for(service: World, clinic: Party, patient: Path) -> None:
    """Exit code 11."""
    found = clinic.refused("infer", "cd" * 16, patient, "--endpoint", service.endpoint)
    assert found == (11, "service_not_expected")


def test_nobody_answers(service: World, clinic: Party, patient: Path) -> None:
    """Without an endpoint the manager is asked, and is away; with one, the service may be."""
    assert clinic.refused("infer", RUN, patient) == (16, "unreachable")
    assert clinic.refused("infer", RUN, patient, "--endpoint", "http://127.0.0.1:1") == (16, "unreachable")


def test_what_is_no_input(service: World, clinic: Party, tmp_path: Path) -> None:
    """Neither JSON, nor an object."""
    path = tmp_path / "bad.json"
    for text in ("", "NaN", "[1", "[1]"):
        path.write_text(text)
        assert clinic.refused("infer", RUN, path, "--endpoint", service.endpoint) == (2, "malformed")


def test_dry_run_sends_nothing(service: World, clinic: Party, patient: Path) -> None:
    """Only where it would go; the inputs are shown to their owner alone."""
    would = clinic.ok("infer", RUN, patient, "--endpoint", service.endpoint, "--dry-run")["would_send"]
    assert would == {"method": "POST", "url": f"{service.endpoint}/v1/sealed", "body": {"x": [1, 2]}}
