"""Clients that others wrote, through the proxy; and a real TLS-terminating nginx on the way, which keeps all that it sees."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from perunml.client.proxy import Proxy
from perunml.client.tunnel import Service, Tunnel
from perunml.testing.service import AGREEMENT, RUN, World, pin_of, predict
from perunml.testing.story.data import patient

pytestmark = pytest.mark.torch
TRITON = textwrap.dedent(
    """
    import json, sys
    import numpy as np
    import tritonclient.http as http

    url, rows = sys.argv[1], json.loads(sys.argv[2])
    client = http.InferenceServerClient(url)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("serve")
    told = client.get_model_metadata("serve")
    assert told["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 30]}], told
    found = []
    for binary in (True, False):
        data = np.array(rows, np.float32)
        tensor = http.InferInput("features", list(data.shape), "FP32")
        tensor.set_data_from_numpy(data, binary_data=binary)
        wanted = http.InferRequestedOutput("probabilities", binary_data=binary)
        answer = client.infer("serve", [tensor], outputs=[wanted], request_id="7")
        found.append(answer.as_numpy("probabilities").tolist())
    try:
        client.infer("other", [tensor])
        raise SystemExit("the model is not there")
    except http.InferenceServerException as exc:
        refused = str(exc)
    print(json.dumps({"found": found, "refused": refused}))
    """
)


@pytest.fixture
def free_port() -> int:
    """Free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


@pytest.fixture
def proxy(world: World) -> Iterator[Proxy]:
    with world.gateway(), _tunnel(world, world.endpoint) as made:
        listening = Proxy(made, "127.0.0.1:0")
        thread = threading.Thread(target=listening.serve)
        thread.start()
        yield listening
        listening.stop()
        thread.join()


def _tunnel(world: World, endpoint: str, transport: httpx.BaseTransport | None = None) -> Tunnel:
    return Tunnel(world.clinic, pin_of(world.manager), Service(endpoint, AGREEMENT, RUN), transport=transport)


def test_tritons_client_asks_unchanged(world: World, proxy: Proxy) -> None:
    """Metadata, binary and JSON tensors, and a refusal that it understands."""
    pytest.importorskip("tritonclient.http", reason="tritonclient is not installed; `make setup` installs it")
    rows = patient()["features"]
    done = subprocess.run(
        [sys.executable, "-c", TRITON, proxy.url.removeprefix("http://"), json.dumps(rows)], capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    wanted = predict(world.engine, patient())["probabilities"]
    assert told["found"] == [wanted, wanted]
    assert "model_unknown" in told["refused"]


NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/bodies;
    client_body_in_file_only on;
    client_max_body_size 80m;
    proxy_temp_path {folder}/proxied;
    proxy_buffering on;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/tls.pem;
        ssl_certificate_key {folder}/tls.key;
        location / {{ proxy_pass {endpoint}; proxy_store {folder}/answers$uri; proxy_store_access user:rw; }}
    }}
}}
"""


@pytest.mark.skipif(shutil.which("nginx") is None or shutil.which("openssl") is None, reason="nginx is not installed")
def test_a_proxy_that_terminates_tls_reads_nothing(world: World, tmp_path: Path, free_port: int) -> None:
    """It keeps every body of both ways; what was asked and answered is in none of them, and the answer is good."""
    if os.geteuid() == 0:
        shutil.chown(tmp_path, "nobody")
    for name in ("bodies", "answers", "proxied"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    for parent in (tmp_path, *tmp_path.parents):
        if os.geteuid() == 0 and parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", tmp_path / "tls.key", "-out", tmp_path / "tls.pem"], check=True, capture_output=True,
    )  # fmt: skip
    with world.gateway():
        (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, port=free_port, endpoint=world.endpoint))
        server = subprocess.Popen(
            ["nginx", "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "error.log"],
            stderr=subprocess.DEVNULL,
        )
        try:
            end = time.monotonic() + 20
            while not (tmp_path / "nginx.pid").exists():
                assert server.poll() is None, (tmp_path / "error.log").read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
            trusted = httpx.HTTPTransport(verify=ssl.create_default_context(cafile=str(tmp_path / "tls.pem")))
            rows = patient()["features"]
            body = json.dumps(
                {
                    "id": "patient-17",
                    "inputs": [{"name": "features", "datatype": "FP32", "shape": [len(rows), 30], "data": rows}],
                }
            ).encode()
            with _tunnel(world, f"https://localhost:{free_port}", trusted) as made:
                answer = made.ask("POST", "/v2/models/serve/infer", {}, body)
                found = json.loads(answer.read())
                assert answer.receipt is not None
        finally:
            server.terminate()
            server.wait(20)
    wanted = [n for row in predict(world.engine, patient())["probabilities"] for n in row]
    assert next(each for each in found["outputs"] if each["name"] == "probabilities")["data"] == wanted
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(("tls", "nginx"))]
    assert any(path.parent.name == "bodies" and path.stat().st_size > len(body) for path in kept)
    for path in kept:
        data = path.read_bytes()
        assert not [word for word in (b"patient-17", b"features", b"probabilities", b"/v2/models") if word in data], (
            path
        )
