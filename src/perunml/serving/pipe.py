"""Service and engine process, over a UNIX socket: JSON values, each after its length in four bytes."""

from __future__ import annotations

import socket
from typing import Any

from perunml.serving.codes import ENGINE_GONE
from perunml.wire.answers import MAX_ANSWER
from perunml.wire.canonical import canonical, load_json
from perunml.wire.errors import PerunError, refuse

MAX_MESSAGE = 2 * MAX_ANSWER
"""Bytes of one value; larger than any request or answer."""


def send(sock: socket.socket, value: Any) -> None:
    """Raises `LimitReached` (engine_gone) when the other end is gone or takes no more in the socket's timeout."""
    try:
        data = canonical(value)
        sock.sendall(len(data).to_bytes(4) + data)
    except (OSError, ValueError):
        raise refuse(ENGINE_GONE, "the engine's process takes nothing") from None


def receive(sock: socket.socket) -> Any:
    """Raises `LimitReached` (engine_gone) for an end, a timeout, or what is not such a message."""
    try:
        size = int.from_bytes(_exactly(sock, 4))
        if size > MAX_MESSAGE:
            raise ValueError
        return load_json(_exactly(sock, size), limit=MAX_MESSAGE)
    except (OSError, ValueError, PerunError):
        raise refuse(ENGINE_GONE, "the engine's process does not answer") from None


def _exactly(sock: socket.socket, size: int) -> bytes:
    out = bytearray()
    while len(out) < size:
        part = sock.recv(min(size - len(out), 1 << 20))
        if not part:
            raise ValueError("the other end closed")
        out += part
    return bytes(out)
