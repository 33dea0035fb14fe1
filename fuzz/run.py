"""Fuzzes the targets with atheris, each in a process of its own, for a bounded time in all.

python fuzz/run.py --seconds 120 [target …]      what crashes lies in fuzz/crashes afterwards, and the exit is 1
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CRASHES = HERE / "crashes"
SECOND, MEBIBYTES = 1, 256
"""What one input may take."""
NAMES = (
    "attest",
    "public",
    "signature",
    "certificate",
    "crl",
    "credential",
    "ima",
    "ima-forms",
    "ima-signature",
    "bootlog",
    "dcap-quote",
    "dcap-collateral",
    "ccel",
    "hcl",
    "snp-report",
    "snp-certificates",
    "vendor-crl",
    "gpu-report",
    "gpu-file",
    "rim",
    "bundle",
    "baseline",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=int, default=120, help="in all, shared by the targets")
    parser.add_argument("--target", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", metavar="target", help=", ".join(NAMES))
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(NAMES):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if asked.target:
        fuzz(asked.target, asked.seconds)  # never comes back
    names = asked.names or list(NAMES)
    each = max(1, asked.seconds // len(names))
    failed = []
    for name in names:
        sys.stdout.write(f"fuzz: {name}, {each} s\n")
        sys.stdout.flush()
        done = subprocess.run([sys.executable, __file__, "--target", name, "--seconds", str(each)], check=False)
        if done.returncode:
            failed.append(name)
    sys.stdout.write(f"fuzz: {len(names)} targets, crashed: {', '.join(failed) or 'none'}\n")
    return 1 if failed else 0


def fuzz(name: str, seconds: int) -> None:
    """One target in this process, which libFuzzer ends."""
    sys.path[:0] = [str(HERE), str(HERE.parent / "src")]
    import atheris

    with atheris.instrument_imports(include=["perunml.evidence", "perunml.wire"]):
        from targets import TARGETS, run_one
    target = TARGETS[name]
    corpus = Path(tempfile.mkdtemp(prefix=f"perunml-fuzz-{name}-"))
    for seed in target.seeds():
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    CRASHES.mkdir(exist_ok=True)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={seconds}",
        f"-max_len={target.largest}",
        f"-timeout={SECOND}",
        f"-rss_limit_mb={resident + MEBIBYTES}",
        f"-artifact_prefix={CRASHES}/{name}-",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    if os.environ.get("FUZZ_SEED"):
        arguments.append(f"-seed={os.environ['FUZZ_SEED']}")
    atheris.Setup(arguments, lambda data: run_one(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    raise SystemExit(main())
