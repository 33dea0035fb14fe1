"""A training from sealed inputs to checked outputs: real sealing, real memory mounts, real sandbox; no manager yet."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(os.geteuid() != 0, reason="the runner makes mounts, so it runs as root, here and in CI"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed; `make setup` installs it"),
]
PROGRAM = Path(__file__).with_name("trained.py")
GOOD = """
import json, os
scans = os.environ["SM_CHANNEL_SCANS"]
rows = sorted(os.listdir(scans + "/deep"))
epochs = json.load(open(os.environ["PERUNML_PARAMS"]))["epochs"]
with open(os.environ["PERUNML_OUT"] + "/model.json", "w") as out:
    json.dump({"rows": rows, "text": open(scans + "/a.csv").read(), "epochs": epochs}, out)
with open("/out/metrics", "w") as out:
    json.dump([{"loss": 1 / 3}] * epochs, out)
"""


def train(code: str, **settings: Any) -> dict[str, Any]:
    asked = {"code": textwrap.dedent(code), "data": {"a.csv": "1,2", "deep/b.csv": "3", "deep/empty": ""}, **settings}
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], input=json.dumps(asked), capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    end: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**end, "told": done.stdout, "err": done.stderr}


def test_sealed_code_trains_on_sealed_data() -> None:
    """Code and data are where the contract says, outputs come out as declared, ciphertext is removed once unpacked."""
    end = train(GOOD)
    assert end["error"] == ""
    assert json.loads(end["outputs"]["model"]) == {"rows": ["b.csv", "empty"], "text": "1,2", "epochs": 2}
    assert end["outputs"]["metrics"] == '{"loss":[0.333333,0.333333]}'
    assert end["ciphertext_left"] == []
    assert len(end["mounts"]) >= 6
    assert all("noswap" in line or "tmpfs" not in line for line in end["mounts"]) or os.uname().release < "6.4"


def test_data_larger_than_memory_is_mounted() -> None:
    """The same code, the same outputs; read-only, for the job alone; told; and nothing of it is left mounted."""
    proof = "import os\nfor name in ('a.csv', 'new'):\n    try:\n        open('/in/scans/' + name, 'r+' if name == 'a.csv' else 'x')\n    except OSError as e:\n        assert e.errno == 30, e\n    else:\n        raise SystemExit(9)\n"
    end = train(proof + GOOD, unpack_at_most=0)
    assert end["error"] == ""
    assert json.loads(end["outputs"]["model"]) == {"rows": ["b.csv", "empty"], "text": "1,2", "epochs": 2}
    assert '"views":{"code":"memory","scans":"fuse"}' in end["told"]
    assert not [line for line in end["mounts"] if " fuse " in line]
    assert '"views":{"code":"memory","scans":"memory"}' in train(GOOD)["told"]


def test_mounted_data_altered_after_it_was_verified_ends_the_run() -> None:
    """The job gets an error, not a byte, is ended, and the run tells the chunk: whatever the code makes of the error."""
    code = "import time\ntry:\n    print(open('/in/scans/a.csv').read())\nexcept OSError as e:\n    assert e.errno == 5\ntime.sleep(600)\n"
    end = train(code, unpack_at_most=0, spoil=True)
    assert end["refused"] == ["chunk_altered"]


def test_error_of_the_code_is_one_class() -> None:
    """What the code says on its way out is seen by nobody: not in events, not in the end."""
    end = train("import sys\nprint('patient-17')\nprint('patient-17', file=sys.stderr)\nraise ValueError('patient-17')")
    assert end["error"] == "code_failed"
    assert "patient-17" not in end["told"] + end["err"]


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        ("class OutOfMemoryError(RuntimeError): pass\nOutOfMemoryError.__module__ = 'torch'\nraise OutOfMemoryError('CUDA out of memory')", "gpu_out_of_memory"),
        ("raise MemoryError('patient-17')", "out_of_memory"),
        ("import numpy\nnumpy.seterr(all='raise')\nnumpy.float32(0) / numpy.float32(0)", "not_finite"),
    ],
)  # fmt: skip
def test_want_of_memory_and_numbers_that_are_none_are_classes_of_their_own(raised: str, error: str) -> None:
    """As the code's last exception says; not its text."""
    end = train(raised)
    assert end["error"] == error
    assert "patient-17" not in end["told"] + end["err"]


def test_code_writes_to_its_streams_by_name() -> None:
    """As log handlers and shell scripts do: /dev/stderr and /dev/stdout open, though their pipe was made by another user."""
    code = "open('/dev/stdout', 'w').write('Traceback (most recent call last):\\n')\nopen('/dev/stderr', 'w').write('MemoryError\\n')\nraise SystemExit(1)"
    assert train(code)["error"] == "out_of_memory"


def test_wall_limit_ends_the_job() -> None:
    """A job that runs past `wall` is killed: out_of_time."""
    assert train("import time\ntime.sleep(600)", wall=1)["error"] == "out_of_time"


def test_job_killed_for_memory_is_told_apart() -> None:
    """/dev/shm counts: filling it past its share is the code's own error, not the host's."""
    end = train("open('/dev/shm/x', 'wb').truncate(1 << 50)")
    assert end["error"] == "code_failed"


def test_altered_ciphertext_is_never_used() -> None:
    """A bit changed on the way: tree_mismatch before the code starts."""
    end = train(GOOD, tamper=True)
    assert end["refused"] == ["tree_mismatch"]
    assert '"event":"running"' not in end["told"]


def test_undeclared_and_missing_outputs_are_refused() -> None:
    """The job ended well, and nothing leaves."""
    end = train("open('/out/other', 'w').write('x')\nopen('/out/metrics', 'w').write('{}')")
    assert end["error"] == ""
    assert end["refused"] == ["output_missing", "output_undeclared"]


def test_output_over_its_size_is_refused() -> None:
    """Even where the mount has room for it."""
    assert train(GOOD, max_size=8)["refused"] == ["output_too_large"]
