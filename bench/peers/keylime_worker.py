"""Runs Keylime's own functions on request, in Keylime's own environment, and says how long each call took.

A request is a line of JSON on stdin, its answer one on stdout: ``{"do": "ima", "log": PATH, "policy": PATH, "pcr": HEX}`` and
``{"do": "quote", "ak": PEM, "nonce": TEXT, "signature": HEX, "attest": HEX, "pcrs": HEX, "hash": NAME, "calls": N}``.
Files are read before the clock starts. An answer is ``{"seconds": S}`` or, when the evidence was not accepted, ``{"error": …}``.
"""

import copy
import json
import logging
import sys
import time
import types

# The GPGME binding wants a C library; it signs policies, and none of what is measured uses it.
sys.modules["gpg"] = types.ModuleType("gpg")
logging.disable(logging.CRITICAL)
answers, sys.stdout = sys.stdout, sys.stderr  # nothing else may write among the answers

from keylime.common.algorithms import Hash  # noqa: E402 - after the stand-in
from keylime.ima import ima  # noqa: E402 - after the stand-in
from keylime.tpm import tpm_util  # noqa: E402 - after the stand-in


def run_ima(request: dict) -> float:
    """Reads, replays and judges an ASCII measurement list under a runtime policy, against PCR 10 of SHA-256."""
    with open(request["log"]) as file:
        lines = file.read().splitlines(keepends=True)
    policy = copy.deepcopy(ima.EMPTY_RUNTIME_POLICY)
    with open(request["policy"]) as file:
        policy["digests"] = json.load(file)
    start = time.perf_counter()
    _, failure = ima.process_measurement_list(None, lines, policy, request["pcr"], hash_alg=Hash.SHA256)
    spent = time.perf_counter() - start
    if failure:
        raise ValueError("the log was not accepted")
    return spent


def run_quote(request: dict) -> float:
    """Checks a quote: signature, nonce, PCR digest. Seconds for one of `calls` calls."""
    ak, nonce = request["ak"].encode(), request["nonce"]
    signature, attest, pcrs = (bytes.fromhex(request[name]) for name in ("signature", "attest", "pcrs"))
    start = time.perf_counter()
    for _ in range(request["calls"]):
        tpm_util.checkquote(ak, nonce, signature, attest, pcrs, request["hash"])
    return (time.perf_counter() - start) / request["calls"]


for line in sys.stdin:
    asked = json.loads(line)
    try:
        answer = {"seconds": {"ima": run_ima, "quote": run_quote}[asked["do"]](asked)}
    except Exception as exc:
        answer = {"error": f"{type(exc).__name__}: {exc}"}
    print(json.dumps(answer), file=answers, flush=True)
