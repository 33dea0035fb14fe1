"""Challenge to keys: a real manager process, hosts with forged TPMs, over TLS with client certificates.

Each host asks for a challenge, quotes, asks for the release and opens what it got. The quote's own signing is left out of the
latencies (a hardware TPM takes 0.5 to 20 ms for it, whatever Perun does), and session keys are made beforehand, as an agent can.
The hosts run in this one process and share the machine's cores with the manager.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import queue
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from perunml.api.pin import Pin, pinned_context
from perunml.api.runs import Challenge, KeyDelivery, ReleaseAnswer, ReleaseRequest
from perunml.client.client import Client
from perunml.evidence.binding import binding
from perunml.host.enrol import Membership, enrol, membership
from perunml.testing.forge import ForgedTpm
from perunml.testing.story.processes import Server, command
from perunml.testing.story.world import free_port
from perunml.wire.digests import digest_of
from perunml.wire.dsse import API_VERSION
from perunml.wire.encoding import b64
from perunml.wire.errors import LimitReached
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey

HOSTS = 4
WARM_UP = 60
ALONE = 200
TOGETHER = 900
"""Releases; as many runs wait at once, of the 1,000 that one agreement may have."""
PASSPHRASE = "bench"  # a throw-away manager's

AGREEMENT = """\
apiVersion: perunml/v1
kind: Agreement
metadata: {{name: bench}}
manager: {{key: "{manager}", profile: {{profile: simulated}}}}
witnesses: {{waived_because_simulated: true}}
parties:
  bench: {{keys: {{k: "{key}"}}, receive: "{receive}"}}
assets:
  code: {{kind: code, owner: bench, digest: "{code}", entry: train.py}}
  scans: {{kind: dataset, owner: bench, digest: "{scans}"}}
hosts:
  trainer: {{profile: simulated, imitates: measured, baseline: "{baseline}", machines: [{machines}]}}
jobs:
  train:
    code: code
    inputs: {{scans: /in/scans}}
    hosts: trainer
    operator: bench
    limits: {{runs: 100000, until: "2030-01-01T00:00:00Z", wall: 10m}}
    network: none
    lease: 10m
    outputs:
      model: {{to: [bench], format: pt2, max_size: 1MiB}}
"""


class Host:
    """One machine's keep-alive connection."""

    def __init__(self, pin: Pin, tpm: ForgedTpm, member: Membership) -> None:
        self._pin, self._tpm = pin, tpm
        host, port = pin.url.removeprefix("https://").split(":")
        context = pinned_context(pin, (member.certificate, member.key))
        self._http = http.client.HTTPSConnection(host, int(port), context=context, timeout=30)

    def release(self, run: str, keys: tuple[HpkePrivateKey, SigningKey]) -> float:
        """Seconds from asking for the challenge to holding the keys, the quote's signing left out."""
        hpke, session = keys
        began = time.perf_counter()
        challenge = Challenge.decode(self._post(f"/v1/runs/{run}/challenge", b""))
        bound = binding(
            purpose="release",
            nonce=challenge.nonce,
            role=challenge.role,
            session_hpke=hpke.public.text,
            session_tls=session.public.text,
            manager=challenge.manager,
            agreement=challenge.agreement,
            run=digest_of(challenge.run_document),
            host=self._tpm.machine,
            payload="",
        )
        quoting = time.perf_counter()
        bundle = self._tpm.collect(bound)
        quoted = time.perf_counter() - quoting
        request = ReleaseRequest(
            nonce=challenge.nonce,
            session_hpke=hpke.public.text,
            session_key=session.public.text,
            evidence=bundle.as_json(),
        )
        answer = ReleaseAnswer.decode(self._post(f"/v1/runs/{run}/release", request.encode()))
        self._tpm.accepted(bundle)
        info = {"label": "perunml/release", "manager": challenge.manager, "agreement": challenge.agreement}
        sealed = hpke.open(answer.sealed, {**info, "run": run, "nonce": b64(challenge.nonce)})
        took = time.perf_counter() - began - quoted
        if set(KeyDelivery.decode(sealed).inputs) != {"code", "scans"}:
            raise RuntimeError("other keys came than were agreed")
        return took

    def _post(self, path: str, body: bytes) -> bytes:
        self._http.request("POST", path, body, {"content-type": "application/json"})
        answer = self._http.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {data[:300]!r}")
        return data


def run() -> dict[str, Any]:
    """p50 and p99 of one host alone, and the rate of several at once."""
    with tempfile.TemporaryDirectory(prefix="perunml-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        client, hosts, agreement, manager = _set_up(folder, stack)

        def work(count: int) -> list[tuple[str, tuple[HpkePrivateKey, SigningKey]]]:
            runs = [_submit(client, agreement) for _ in range(count)]
            return [(run, (HpkePrivateKey.generate(), SigningKey.generate())) for run in runs]

        for index, item in enumerate(work(WARM_UP)):
            hosts[index % HOSTS].release(*item)
        alone = [hosts[0].release(*item) for item in work(ALONE)]
        waiting = work(TOGETHER)
        before = _cpu(manager), _cpu(os.getpid())
        rate, together = _at_once(hosts, waiting)
        cost = [
            (after - then) / TOGETHER * 1e3
            for after, then in zip((_cpu(manager), _cpu(os.getpid())), before, strict=True)
        ]
    return {
        "title": f"Challenge to keys without the TPM's own time; one manager process, {HOSTS} hosts on the same cores.",
        "results": [
            _row("challenge to keys, one host, p50", statistics.median(alone) * 1e3, "ms", 10),
            _row("challenge to keys, one host, p99", statistics.quantiles(alone, n=100)[98] * 1e3, "ms", 50),
            _row(f"challenge to keys, {HOSTS} hosts at once, p50", statistics.median(together) * 1e3, "ms", None),
            _row(f"challenge to keys, {HOSTS} hosts at once, p99", statistics.quantiles(together, n=100)[98] * 1e3, "ms", 50),
            {"name": f"releases, {HOSTS} hosts at once", "value": rate, "unit": "1/s", "higher_is_better": True, "target": 400},
            _row("processor time of a release, the manager's", cost[0], "ms", None),
            _row("processor time of a release, the host's, its quote included", cost[1], "ms", None),
        ],
    }  # fmt: skip


def _row(name: str, value: float, unit: str, target: float | None) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "value": round(value, 3), "unit": unit, "higher_is_better": False}
    return row if target is None else {**row, "target": target}


def _at_once(hosts: list[Host], work: list[Any]) -> tuple[float, list[float]]:
    todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for item in work:
        todo.put(item)
    took: list[float] = []
    failed: list[BaseException] = []

    def drain(host: Host) -> None:
        try:
            while True:
                took.append(host.release(*todo.get_nowait()))
        except queue.Empty:
            pass
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=drain, args=(host,)) for host in hosts]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failed:
        raise failed[0]
    return len(took) / seconds, took


def _submit(client: Client, agreement: str) -> str:
    """A run, asked for again where the manager says that this party asks too often."""
    while True:
        try:
            return client.submit(agreement, "train", {}).run
        except LimitReached as exc:
            if exc.code != "rate_limited":
                raise
            time.sleep(0.1)


def _cpu(process: int) -> float:
    """Seconds of processor time that a process has used: a busy machine changes them little."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _set_up(folder: Path, stack: contextlib.ExitStack) -> tuple[Client, list[Host], str, int]:
    """A manager, parties and hosts; the last value is the manager's process."""
    from perunml.manager.setup import admit, init

    tpms = [ForgedTpm() for _ in range(HOSTS)]
    root = folder / "root.der"
    root.write_bytes(tpms[0].ca.root)
    url = f"https://127.0.0.1:{free_port()}"
    identity = init(folder / "manager", PASSPHRASE.encode(), url=url, simulated_ek_roots=[root])
    arguments = ["manager", "run", "--folder", str(folder / "manager")]
    server = Server(
        "manager", [*command(folder, "--passphrase-fd", "{fd}"), *arguments], folder / "manager.log", PASSPHRASE
    )
    stack.callback(server.stop)
    server.wait_for(event="ready")
    client = stack.enter_context(Client.create(folder / "home", "bench", PASSPHRASE.encode()))
    admit(folder / "manager", [client.identity.signing.public.text])
    profile = folder / "profile.yaml"
    profile.write_text(
        f'apiVersion: {API_VERSION}\nkind: ManagerProfile\nkey: "{identity}"\nprofile: {{profile: simulated}}\n'
    )
    pin = client.trust(url, profile)
    digests = {}
    for name, kind in (("code", "code"), ("scans", "dataset")):
        source = folder / name
        source.mkdir()
        (source / "train.py").write_text("pass\n")
        digests[name] = client.seal(source, name=name, kind=kind).asset
        client.push(name)
    baseline = client.push_document("Baseline", tpms[0].baseline().as_json()).digest
    hosts = []
    for index, tpm in enumerate(tpms):
        place = folder / f"host-{index}"
        enrol(pin, client.identity.signing, tpm, place, f"host-{index}")
        hosts.append(Host(pin, tpm, membership(pin, tpm.machine, place)))
    text = AGREEMENT.format(
        manager=identity,
        key=client.identity.signing.public.text,
        receive=client.identity.receiving.public.text,
        baseline=baseline,
        machines=", ".join(f'"{tpm.machine}"' for tpm in tpms),
        **digests,
    )
    agreement = client.propose(text.encode()).digest
    client.approve(agreement)
    return client, hosts, agreement, server.process.pid
