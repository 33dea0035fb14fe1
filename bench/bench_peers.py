"""How fast are an IMA log and a quote judged here, and by Keylime's own functions, on the same evidence in one run?

Both judge the same boot: 200,000 measured files, each listed, the log proven by the quoted PCR 10. Keylime reads the kernel's
ASCII list, Perun the binary one: each is given the form that its agent sends. Calls take turns, so that whatever else the
machine does hits both; medians are given. The bare operations (the hashes that any verifier must make, the signature check)
stand beside them as the limit.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from perunml.evidence.baseline import Baseline
from perunml.evidence.bundle import BANK_SIZES
from perunml.evidence.ima.appraise import appraise_log
from perunml.evidence.ima.parse import parse_log
from perunml.evidence.tpm.keys import check_ak, qualified_names
from perunml.evidence.tpm.quote import verify_quote
from perunml.testing.forge import ForgedTpm, Quoting

ENTRIES = 200_000
ROUNDS = 5
CALLS = 200
FASTER = 4.0
"""An IMA log at this many times the peer's rate."""
RATE = 250_000
"""Entries a second, on one core."""
HERE = Path(__file__).resolve().parent / "peers"
BINDING = b"\x5a" * 48


class Worker:
    """The peer in a process and an environment of its own."""

    def __init__(self) -> None:
        python = HERE / ".venv" / "bin" / "python"
        wanted = (HERE / "requirements.txt").read_text()
        mark = HERE / ".venv" / "installed.txt"
        if not mark.exists() or mark.read_text() != wanted:
            venv.create(HERE / ".venv", with_pip=True, clear=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "-r", str(HERE / "requirements.txt")], check=True)
            mark.write_text(wanted)
        self.version = next(line.partition("==")[2] for line in wanted.splitlines() if line.startswith("keylime=="))
        command = [str(python), str(HERE / "keylime_worker.py")]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, **request: Any) -> float:
        """Seconds that the call took. Raises `ValueError` when it did not accept the evidence."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise ValueError(answer["error"])
        return float(answer["seconds"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def run(entries: int = ENTRIES, rounds: int = ROUNDS) -> dict[str, Any]:
    """``{title, results}`` as bench/README.md says, medians of `rounds` turns."""
    with tempfile.TemporaryDirectory() as folder, Worker() as peer:
        log = _ima(peer, Path(folder), entries, rounds)
        quotes = {kind: _quote(peer, kind, rounds) for kind in ("p256", "rsa")}
    results = [
        _result(f"IMA log of {entries:,} entries, Perun", entries / log["ours"], "entries/s", target=RATE),
        _result(f"IMA log of {entries:,} entries, Keylime {peer.version}", entries / log["peer"], "entries/s"),
        _result(f"IMA log of {entries:,} entries, the hashes alone", entries / log["bare"], "entries/s"),
        _result("IMA log, Perun to Keylime", log["peer"] / log["ours"], "x", target=FASTER),
    ]
    for kind, name, limit in (("p256", "ECDSA P-256", 1.5), ("rsa", "RSA-2048", 2.2)):
        spent = quotes[kind]
        for who, label in (
            ("ours", "Perun"),
            ("peer", f"Keylime {peer.version}"),
            ("bare", "the signature check alone"),
        ):
            results.append(_result(f"quote, {name}, {label}", spent[who] * 1e6, "µs", higher=False))
        results.append(
            _result(f"quote, {name}, Perun to the check alone", spent["ours"] / spent["bare"], "x", limit, higher=False)
        )
    title = f"The same evidence judged by Perun and by Keylime's functions, in turns; medians of {rounds}."
    return {"title": title, "results": results}


def _ima(peer: Worker, folder: Path, entries: int, rounds: int) -> dict[str, float]:
    tpm = ForgedTpm(files={})
    files = {
        f"/usr/lib/package/file-{i:06d}.so".encode(): hashlib.sha256(b"%d" % i).digest() for i in range(entries - 1)
    }
    for path, digest in files.items():
        tpm.measure(path, b"", digest=digest)
    log, pcr = tpm.ima_log, tpm.pcrs["sha256"][10]
    pcrs = {"sha256": dict(enumerate(tpm.pcrs["sha256"][:11]))}
    listed = {path.decode(): frozenset(["sha256:" + digest.hex()]) for path, digest in files.items()}
    allowed = Baseline({}, listed).at(0)
    lines, _ = parse_log(log)
    ascii_log, policy = folder / "ascii", folder / "policy.json"
    with ascii_log.open("w") as file:
        for _, template_hash, _, digest, path, _ in lines:
            file.write(f"10 {template_hash.hex()} ima-ng sha256:{digest[8:].hex()} {path.decode()}\n")
    policy.write_text(json.dumps({path.decode(): [digest[8:].hex()] for _, _, _, digest, path, _ in lines}))

    def ours() -> float:
        start = time.perf_counter()
        found = appraise_log(log, 0, pcrs, allowed)
        spent = time.perf_counter() - start
        assert found.proven == entries and not found.reasons, found.reasons  # noqa: PT018 - a bench's own check
        return spent

    def bare() -> float:
        data = [line[2] for line in lines]
        sha1, sha256, value = hashlib.sha1, hashlib.sha256, bytes(32)
        start = time.perf_counter()
        for item in data:
            sha1(item, usedforsecurity=False).digest()
            value = sha256(value + sha256(item).digest()).digest()
        spent = time.perf_counter() - start
        assert value == pcr
        return spent

    request = {"do": "ima", "log": str(ascii_log), "policy": str(policy), "pcr": pcr.hex()}
    return _turns({"ours": ours, "peer": lambda: peer.ask(**request), "bare": bare}, rounds)


def _quote(peer: Worker, kind: str, rounds: int) -> dict[str, float]:
    tpm = ForgedTpm(ak=kind)
    nonce = "a nonce as text, since it is one"
    part = tpm.quote(BINDING, Quoting(extra_data=nonce.encode()))
    ak = check_ak(tpm.ak_public)
    signers = qualified_names(ak, None)
    key = ak.public.key()

    def ours() -> float:
        start = time.perf_counter()
        for _ in range(CALLS):
            verify_quote(part, ak, signers=signers, extra_data=nonce.encode())
        return (time.perf_counter() - start) / CALLS

    def bare() -> float:
        raw = _raw_signature(part.signature, kind)
        start = time.perf_counter()
        for _ in range(CALLS):
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(raw, part.attest, padding.PKCS1v15(), SHA256())
            else:
                key.verify(raw, part.attest, ec.ECDSA(SHA256()))
        return (time.perf_counter() - start) / CALLS

    request = {
        "do": "quote",
        "ak": key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        "nonce": nonce,
        "signature": part.signature.hex(),
        "attest": part.attest.hex(),
        "pcrs": _pcr_blob(part.pcrs["sha256"]).hex(),
        "hash": "sha256",
        "calls": CALLS,
    }
    return _turns({"ours": ours, "peer": lambda: peer.ask(**request), "bare": bare}, rounds)


def _raw_signature(signature: bytes, kind: str) -> bytes:
    """What is in a TPMT_SIGNATURE, as the cryptographic library wants it."""
    if kind == "rsa":
        return signature[6:]
    return encode_dss_signature(int.from_bytes(signature[6:38]), int.from_bytes(signature[40:72]))


def _pcr_blob(values: Any) -> bytes:
    """PCR values as tpm2-tools writes them from memory, on a little-endian machine: 16 selections, lists of 8 digests."""
    mask = sum(1 << index for index in values)
    out = struct.pack("<I", 1) + struct.pack("<HB", 0x000B, 3) + mask.to_bytes(3, "little") + bytes(2)
    out += (struct.pack("<HB", 0, 0) + bytes(5)) * 15
    digests = [values[index] for index in sorted(values)]
    lists = [digests[i : i + 8] for i in range(0, len(digests), 8)]
    out += struct.pack("<I", len(lists))
    for some in lists:
        out += struct.pack("<I", len(some))
        for digest in some:
            out += struct.pack("<H", len(digest)) + digest.ljust(BANK_SIZES["sha512"], b"\0")
        out += bytes(2 + BANK_SIZES["sha512"]) * (8 - len(some))
    return out


def _turns(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, which take turns; one round first that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, way in ways.items():
            seconds = way()
            if round_:
                spent[name].append(seconds)
    return {name: statistics.median(times) for name, times in spent.items()}


def _result(name: str, value: float, unit: str, target: float | None = None, *, higher: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "value": value, "unit": unit, "higher_is_better": higher}
    return found if target is None else {**found, "target": target}


if __name__ == "__main__":
    json.dump(run(), sys.stdout, indent=2)
