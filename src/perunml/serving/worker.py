"""The engine's process, inside the sandbox: loads the model, answers one request after the other, or those of a language model side by side.

Arguments: the socket's path, the engine's name, the model's folder, and perhaps the architecture's file. It holds the model and one request's inputs at a time,
and no key: what a model could do by being loaded or run, it does to this process, which has no network and no file.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from perunml.agreements.jobs import LANGUAGE
from perunml.serving.engines import load_engine, load_language
from perunml.serving.forms import forms_json
from perunml.serving.pipe import listed, receive, send, unlisted
from perunml.serving.talk import Talker
from perunml.wire.errors import PerunError


def main(argv: list[str]) -> int:
    path, engine, model = argv[1:4]
    entry = Path(argv[4]) if len(argv) > 4 else None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(path)
        try:
            if engine in LANGUAGE:
                talker = Talker(sock, load_language(engine, Path(model)))
                send(sock, {"language": True})
                talker.serve()
                return 0
            loaded = load_engine(engine, Path(model), entry)
        except PerunError as exc:
            send(sock, {"refusal": exc.reasons[0].as_json()})
            return 1
        send(sock, {"forms": forms_json(loaded.forms())})
        while True:
            try:
                asked, data = receive(sock)
            except PerunError:
                return 0  # the service closed
            try:
                said, parts = listed(loaded.infer(unlisted(asked["tensors"], data)))
                send(sock, {"tensors": said}, parts)
            except PerunError as exc:
                send(sock, {"refusal": exc.reasons[0].as_json()})


if __name__ == "__main__":
    # Not sys.exit: PyTorch's clean-up at exit is of no use here, and has been seen to hang.
    os._exit(main(sys.argv))
