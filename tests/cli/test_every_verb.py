"""Every verb of the tree, done once for real at a real manager: what it answers in JSON, what it sends, and that its dry run
sends nothing and leaves everything as it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.kit import PASSPHRASE, Party, Said
from cli.manager import Manager
from cli.test_infer import Doubles
from cli.verbs import SENDS, SERVES, leaves
from cli.world import World
from perunml.client.home import Home
from perunml.client.identity import Identity
from perunml.evidence.binding import tpm_extra_data
from perunml.manager.config import Config
from perunml.testing.dcap import NOW, ForgedIntel
from perunml.testing.forge import ForgedTpm
from perunml.testing.nvidia import ForgedNvidia
from perunml.testing.service import RUN, Client, pin_of
from perunml.testing.service import World as Service
from perunml.testing.snp import ForgedChip
from perunml.wire.identity import SigningKey
from perunml.wire.timestamps import format_time
from sealing.bucket import ACCOUNT, Bucket
from sealing.bucket import NAME as BUCKET

ELSEWHERE = {
    "quickstart": "tests/e2e/test_story.py",
    "host measure-key": "tests/cli/test_host.py",
    "serve": "tests/serving/roads.py",
    "manager boot": "tests/manager/test_boot.py",
    "host install": "tests/host/test_install.py",
    "host uninstall": "tests/host/test_install.py",
    "host boot": "tests/host/test_reception.py",
    "host boot-log": "tests/host/test_reception.py",
    "image golden": "tests/vm/world.py",
}
"""Verbs whose one run takes a minute, a host or a TPM, and the file that runs them with ``-o json``."""
TOP = Path(__file__).parents[2]


@dataclass
class Done:
    """One verb, done: with ``--dry-run`` where it has that, then for real. Requests are (method, url)."""

    said: Said
    sent: list[tuple[str, str]]
    dry: Said | None = None
    dry_sent: list[tuple[str, str]] = field(default_factory=list)
    changed: bool = False


class Doer:
    """Does verbs, and keeps for each what was said and what was sent."""

    def __init__(self, world: World, requests: list[tuple[str, str]]) -> None:
        self.world, self.requests = world, requests
        self.done: dict[str, Done] = {}

    def __call__(self, verb: str, party: Party, *words: object, watch: Path | None = None) -> Any:
        """The JSON that `verb` answers; `watch` is a folder that a dry run must leave alone, besides home and manager."""
        before, dry, dry_sent = self._state(party, watch), None, []
        if verb in SENDS:
            dry, dry_sent = self._run(party, *verb.split(), *words, "--dry-run")
        changed = self._state(party, watch) != before
        said, sent = self._run(party, *verb.split(), *words)
        assert said.code == 0, f"{verb}: {said.err}"
        self.done[verb] = Done(said, sent, dry, dry_sent, changed)
        return said.json

    def _run(self, party: Party, *words: object) -> tuple[Said, list[tuple[str, str]]]:
        self.requests.clear()
        said = party("-o", "json", *words)
        return said, list(self.requests)

    def _state(self, party: Party, watch: Path | None) -> list[object]:
        """Everything that the manager holds, the nonces of signed requests aside, and the files of the party and of `watch`."""
        folder = self.world.manager.folder
        database = Config.load(folder).database
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            rows = [line for line in connection.iterdump() if not line.startswith('INSERT INTO "nonces"')]
            (size,) = connection.execute("SELECT count(*) FROM entries").fetchone()
        assert size > 0
        assert len(rows) > size
        blobs = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(database.name)]
        return [rows, _files(folder, blobs), _files(party.home), _files(watch) if watch else None]


def _files(folder: Path, paths: list[Path] | None = None) -> dict[str, str] | None:
    if not folder.exists():
        return None
    found = folder.rglob("*") if paths is None else paths
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found if path.is_file()}


@pytest.fixture(scope="module")
def requests() -> Iterator[list[tuple[str, str]]]:
    """Every HTTP request that leaves this process, as it leaves."""
    found: list[tuple[str, str]] = []
    send = httpx.Client.send

    def noted(self: httpx.Client, request: httpx.Request, **kwargs: Any) -> httpx.Response:
        found.append((request.method, str(request.url)))
        return send(self, request, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx.Client, "send", noted)
        yield found


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of it happens, the world aside."""
    return tmp_path_factory.mktemp("verbs")


@pytest.fixture(scope="module")
def done(world: World, requests: list[tuple[str, str]], here: Path) -> dict[str, Done]:
    """All verbs, in an order in which each can be done."""
    do = Doer(world, requests)
    _joined(do, world, here)
    _newcomer(do, world, here)
    _agreed(do, world, here)
    _served(do, here)
    _operated(do, world, here)
    _recovered(do, world, here)
    _audited(do, here)
    return do.done


def _joined(do: Doer, world: World, here: Path) -> None:
    """While every owner has an agreement: who brings data without one holds the root key back."""
    world.agree("joining")
    words = ("--folder", here / "joined", "--profile", world.manager.profile)
    told = do("manager join", Party(here / "none"), world.manager.url, *words, watch=here / "joined")
    assert told["identity"] == world.manager.identity


def _newcomer(do: Doer, world: World, here: Path) -> None:
    nova = Party(here / "nova")
    key = do("id create", nova, "--name", "nova")["identity"]
    assert do("id show", nova)["identity"] == key
    do("manager admit", nova, "--folder", world.manager.folder, key)
    do("trust", nova, world.manager.url, "--profile", world.manager.profile)
    do("seal", nova, world.folder / "scans", "--name", "more", "--kind", "dataset")
    do("push", nova, "more")
    (again,) = do("recover", nova, "more")["assets"]
    assert again["complete"]
    do("asset show", nova, "more")
    do("asset list", nova)
    baseline = here / "baseline.json"
    body = {"apiVersion": "perunml/v1", "kind": "Baseline", **ForgedTpm().baseline().as_json()}
    baseline.write_text(json.dumps(body))
    digest = do("document digest", nova, baseline)["digest"]
    assert do("document push", nova, baseline)["digest"] == digest
    published = here / "release.json"
    assert do("document sign", nova, world.manager.profile, "--out", published)["signers"] == [key]
    do("trust", nova, world.manager.url, "--profile", published, "--signed-by", key)
    assert do("id rotate", nova)["identity"] == key
    assert do("id switch", nova)["former"] == [{"identity": key, "kept": True}]
    assert do("id forget", nova, key)["former"] == [{"identity": key, "kept": False}]


def _agreed(do: Doer, world: World, here: Path) -> None:
    acme, owner = world["acme"], world["st-vitus"]
    path = world.write(world.document("every"))
    do("agreement schema", acme)
    do("agreement check", acme, path)
    do("agreement review", acme, path)
    rules = here / "checker.yaml"
    rules.write_text(
        "apiVersion: perunml/v1\nkind: Checker\nagreements: [every]\nversions: any\ncode: {unet: {forbid: [network]}}\n"
    )
    assert do("checker try", acme, "--config", rules, path) == {"would_sign": True, "findings": []}
    digest = do("agreement propose", acme, path)["digest"]
    do("agreement approve", owner, "every", "--digest", digest)
    for name, party in world.parties.items():
        if name != "st-vitus":
            party.ok("agreement", "approve", digest, "--digest", digest)
    assert do("agreement show", acme, "every")["state"] == "in_force"
    do("agreement list", acme)
    _signed(do, world, here, digest)
    run = do("job submit", acme, "every", "train", "-p", "epochs=3")["run"]
    world.machine.take(run, digest, lambda _: {"model": b'{"w":1}', "metrics": b'{"epoch":[1],"loss":[1]}'})
    do("job wait", acme, run, "--timeout", "30")
    do("job show", acme, run)
    do("job list", acme)
    assert do("why", acme, "every/train")["state"] in ("clear", "refused")
    do("output list", acme)
    do("output approve", owner, run, "model")
    receipt = do("output pull", acme, run, "model", "--to", here / "model")["receipt"]
    do("receipt verify", acme, receipt)
    do("ledger verify", acme)
    do("witness once", acme)
    audit = here / "ledger.zip"
    size = do("audit export", acme, audit)["size"]
    assert do("audit verify", acme, audit)["size"] == size
    do("condition add", owner, "scans", "june", "--until", "2099-01-01T00:00:00Z", "--agreement", "every")
    assert len(do("condition list", owner, "scans", "--agreement", "every")["conditions"]) == 1
    do("condition drop", owner, "scans", "june", "--agreement", "every")
    do("asset suspend", owner, "scans", "--agreement", "every")
    do("asset lift", owner, "scans", "--agreement", "every")


def _signed(do: Doer, world: World, here: Path, digest: str) -> None:
    """The clinic's key shall be another one; the cloud agrees to it, and then does not."""
    acme, cloud, message = world["acme"], world["gpu-cloud"], here / "approval.json"
    fresh = SigningKey.generate().public.text
    made = do("agreement rotate-key", acme, "every", "--party", "clinic", "--member", "main", "--new-key", fresh)
    assert made["kind"] == "Agreement"
    said = do("agreement diff", cloud, made["digest"])
    assert (said["needed"], [change["effect"] for change in said["changes"]]) == (
        {"every": {"clinic": True}, "one_of": []},
        ["own"],
    )
    assert do("agreement message", cloud, made["digest"], "--out", message)["file"] == str(message)
    assert do("agreement attach", cloud, message)["kind"] == "Approval"
    assert do("agreement withdraw", cloud, made["digest"])["approved"] == []
    assert acme.ok("agreement", "show", digest)["state"] == "in_force"


def _served(do: Doer, here: Path) -> None:
    clinic = Party(here / "clinic")
    clinic.ok("id", "create", "--name", "clinic")
    service = Service(Doubles(), clinic=Client("clinic", Identity.open(Home(clinic.home), PASSPHRASE).signing))
    Home(clinic.home).save_pin(pin_of(service.manager))
    (here / "patient.json").write_text('{"x": [1, 2]}')
    with service.gateway():
        do("infer", clinic, RUN, here / "patient.json", "--endpoint", service.endpoint)


def _operated(do: Doer, world: World, here: Path) -> None:
    cloud, folder = world["gpu-cloud"], here / "host"
    do("host enrol", cloud, "--folder", folder, "--name", "other", "--simulated-machine", watch=folder)
    do("host doctor", cloud)
    assert do("host explain", cloud, "other")["hosts"][0]["refusals"] == []
    do("manager init", Party(here / "none"), "--folder", here / "manager", "--url", "https://127.0.0.1:1")
    copy = here / "manager.backup"
    entries = do("manager backup", Party(here / "none"), "--folder", world.manager.folder, copy)["entries"]
    restored = do("manager restore", Party(here / "none"), "--folder", here / "again", copy)
    assert restored["entries"] == entries
    assert do("manager rotate-intake", Party(here / "none"), "--folder", here / "manager")["generation"] == 2
    _stored(do, world, here)
    do("completion", cloud, "fish")


def _stored(do: Doer, world: World, here: Path) -> None:
    bucket, folder, operator = Bucket(), here / "manager", Party(here / "none")
    try:
        (here / "account.json").write_text(json.dumps({"key_id": ACCOUNT.key_id, "secret": ACCOUNT.secret}))
        place = ("--s3", bucket.url, "--bucket", BUCKET, "--credentials", here / "account.json")
        assert do("manager store add", operator, "lake", "--folder", folder, *place)["bucket"] == BUCKET
        assert [one["name"] for one in do("manager store list", operator, "--folder", folder)["stores"]] == ["lake"]
        assert do("manager store remove", operator, "lake", "--folder", folder)["assets"] == 0
    finally:
        bucket.close()


def _recovered(do: Doer, world: World, here: Path) -> None:
    """Another manager takes the world's model over; the world's own goes on, for other verbs."""
    acme, nobody = world["acme"], Party(here / "none")
    (kept, *_) = do("recovery keep", acme, "every")["shares"]
    second = Manager(here / "second")
    with second.running():
        copies = {}
        for name, party in world.parties.items():
            copies[name] = Party(here / f"{name}-again")
            shutil.copytree(party.home, copies[name].home, ignore=shutil.ignore_patterns("managers", "ledger"))
            nobody.ok("manager", "admit", "--folder", second.folder, party.ok("id", "show")["identity"])
            copies[name].ok("trust", second.url, "--profile", second.profile)
        document = world.document("after")
        document["manager"]["key"] = second.identity
        document["recovery"] = {"managers": [world.manager.identity]}
        digest = copies["acme"].ok("agreement", "propose", world.write(document))["digest"]
        for copy in copies.values():
            copy.ok("agreement", "approve", digest, "--digest", digest)
        words = ("after", "--asset", kept["asset"])
        (given,) = do("recovery give", copies["acme"], *words, watch=second.folder / "blobs")["outputs"]
        assert (given["given"], given["recovered"], given["complete"]) == (["acme"], False, False)
        adopted = do("manager adopt", nobody, "--folder", second.folder, here / "manager.backup")
        assert adopted["outputs"] == [kept["asset"]]
        (listed,) = do("recovery list", copies["acme"], "after")["outputs"]
        assert (listed["complete"], listed["at_least"]) == (True, 2)


def _audited(do: Doer, here: Path) -> None:
    nobody, folder = Party(here / "none"), here / "evidence"
    folder.mkdir()
    tpm = ForgedTpm()
    part = tpm.quote(bytes(48))
    event = (4).to_bytes(4, "little") + (13).to_bytes(4, "little") + bytes(20) + bytes(4)
    for name, data in {
        "attest": part.attest,
        "signature": part.signature,
        "ak": tpm.ak_public,
        "boot": event,
        "ima": part.ima_log,
        "policy": b'{"digests": {"/a": ["' + b"ab" * 32 + b'"]}}',
    }.items():
        (folder / name).write_bytes(data)
    words = [word for name in ("attest", "signature", "ak") for word in (f"--{name}", folder / name)]
    assert do("evidence check tpm", nobody, *words, "--nonce", tpm_extra_data(bytes(48)).hex())["accepted"]
    assert do("evidence check event-log", nobody, folder / "boot")["claims"]["boot"]["events"] == 1
    assert do("evidence check ima", nobody, folder / "ima")["claims"]["ima"]["entries"] == len(tpm.lines)
    chip = ForgedChip()
    (folder / "certs").mkdir()
    for name, data in {
        "snp": chip.report(),
        "ark": chip.ca.root,
        "certs/vcek": chip.certificate,
        "certs/ask": chip.ca.middle,
        "certs/ark": chip.ca.root,
    }.items():
        (folder / name).write_bytes(data)
    words = ["--report", folder / "snp", "--certs", folder / "certs", "--simulated-root", folder / "ark"]
    assert do("evidence check snp", nobody, *words)["claims"]["report"]["simulated"]
    vendor = ForgedNvidia()
    gpu = vendor.gpu()
    for name, data in {
        "report": gpu.report(bytes(32)).report,
        "chain": b"".join(gpu.chain),
        "root": vendor.root.der,
    }.items():
        (folder / name).write_bytes(data)
    words = ["--report", folder / "report", "--chain", folder / "chain", "--simulated-root", folder / "root"]
    told = do("evidence check nvidia", nobody, *words, "--nonce", bytes(32).hex())
    assert told["claims"]["devices"][0]["simulated"]
    intel = ForgedIntel()
    for tee, quote in (("sgx", intel.sgx_quote()), ("tdx", intel.tdx_quote())):
        for name, data in {"quote": quote, "collateral": intel.collateral(tee), "root": intel.root}.items():
            (folder / name).write_bytes(data)
        words = [
            "--quote",
            folder / "quote",
            "--collateral",
            folder / "collateral",
            "--simulated-root",
            folder / "root",
        ]
        told = do(f"evidence check {tee}", nobody, *words, "--at", format_time(NOW))
        assert told["claims"]["quote"]["tcb_status"] == "UpToDate"
    (folder / "vendors").mkdir()
    (folder / "vendors" / "rim").write_bytes(vendor.driver_rim())
    bundle = folder / "bundle.json"
    assert (
        do("collateral bundle", Party(here / "nova"), "--from", folder / "vendors", "--out", bundle)["counts"]["rims"]
        == 1
    )
    assert len(do("collateral show", nobody, bundle)["items"]) == 1
    first, second = folder / "first.json", folder / "second.json"
    do("baseline build", nobody, "--ima-log", folder / "ima", "--out", first)
    do("baseline import", nobody, folder / "policy", "--out", second)
    assert do("baseline diff", nobody, first, second)["widens"] == 1
    assert do("baseline show", nobody, second)["files"] == 1
    assert do("baseline schema", nobody)["title"] == "Baseline"


ONCE = sorted(set(leaves()) - SERVES - set(ELSEWHERE))


@pytest.mark.parametrize("verb", ONCE)
def test_it_answers_with_one_json_value(done: dict[str, Done], verb: str) -> None:
    """stdout is the value that docs/cli.md says, stderr is silent, exit code 0."""
    said = done[verb].said
    assert isinstance(json.loads(said.out), dict)
    assert (said.code, said.err) == (0, "")


@pytest.mark.parametrize("verb", ONCE)
def test_it_sends_if_and_only_if_the_list_says_so(done: dict[str, Done], verb: str) -> None:
    """Any request but GET counts. `trust` asks only; what it changes is the home folder, and whom everything else is sent to."""
    sent = [method for method, _ in done[verb].sent if method != "GET"]
    assert bool(sent) == (verb in SENDS - {"trust"})


@pytest.mark.parametrize("verb", sorted(SENDS - set(ELSEWHERE)))
def test_its_dry_run_changes_nothing_and_sends_nothing(done: dict[str, Done], verb: str) -> None:
    """The manager's whole store, its ledger in it, the home folder and the host's folder are as before; nothing but GET went
    out; and what was shown is what the real command then sent first."""
    it = done[verb]
    assert it.dry is not None
    assert (it.dry.code, it.dry.err) == (0, "")
    assert not it.changed
    assert {method for method, _ in it.dry_sent} <= {"GET"}
    if verb == "trust":
        assert it.dry.json["identity"] == it.said.json["identity"]
        return
    would = it.dry.json["would_send"]
    assert set(would) == {"method", "url", "body"}
    assert (would["method"], would["url"]) == next(request for request in it.sent if request[0] != "GET")
    assert would["body"]


@pytest.mark.parametrize("verb", sorted(leaves()))
def test_its_errors_are_json_too(verb: str, nobody: Party) -> None:
    """`-o json` before the verb, after it, and glued together: one object on stderr, nothing on stdout."""
    for words in (("-o", "json", *verb.split(), "--bogus"), (*verb.split(), "--bogus", "-ojson")):
        said = nobody(*words, passphrase=None)
        assert (said.code, said.out, said.reasons) == (2, "", ["usage"])
        assert json.loads(said.err)["exit"] == 2


def test_every_verb_is_done_here_or_named(done: dict[str, Done]) -> None:
    """What runs a minute, or until it is stopped, is run elsewhere."""
    assert set(done) == set(ONCE)
    for verb, file in ELSEWHERE.items():
        words = ", ".join(f'"{word}"' for word in (*verb.split(), "-o", "json"))
        assert words in (TOP / file).read_text()


def test_a_host_that_runs_says_json_line_by_line(done: dict[str, Done], world: World, here: Path) -> None:
    """`host run -o json`: one object a line, `ready` first; where it may not run, one object that says why.
    (`manager run`: test_manager.py.)"""
    assert done["host enrol"].said.json["name"] == "other"
    home = world["gpu-cloud"].home
    words = ["-o", "json", "--home", home, "host", "run", "--folder", here / "host", "--simulated-machine"]
    with subprocess.Popen(
        [sys.executable, "-m", "perunml", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if os.geteuid() != 0 or shutil.which("bwrap") is None:
            _, err = process.communicate(timeout=60)
            assert json.loads(err)["reasons"][0]["code"] == "host_unfit"
            return
        event = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        rest, err = process.communicate(timeout=60)
    assert (event["event"], event["simulated"]) == ("ready", True)
    assert all(isinstance(json.loads(line), dict) for line in rest.splitlines())
    assert (process.returncode, err) == (0, "")
