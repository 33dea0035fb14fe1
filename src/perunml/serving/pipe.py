"""Service and engine process, over a UNIX socket: a JSON value and the bytes that belong to it, each after its length."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from perunml.serving.codes import ENGINE_GONE
from perunml.serving.tensors import MAX_TENSORS, Tensor, checked
from perunml.wire.canonical import canonical, load_json
from perunml.wire.errors import PerunError, refuse

MAX_MESSAGE = 32 << 20
"""Bytes of one value: a conversation is the longest."""
MAX_BLOB = 128 * 2**20
"""Bytes of the tensors of one request or answer."""


def send(sock: socket.socket, value: Any, parts: Sequence[bytes | memoryview] = ()) -> None:
    """Raises `LimitReached` (engine_gone) when the other end is gone or takes no more in the socket's timeout."""
    try:
        data = canonical(value)
        sock.sendall(len(data).to_bytes(4) + sum(map(len, parts)).to_bytes(4) + data)
        for part in parts:
            sock.sendall(part)
    except (OSError, ValueError, OverflowError):
        raise refuse(ENGINE_GONE, "the engine's process takes nothing") from None


def receive(sock: socket.socket, most: int = MAX_MESSAGE) -> tuple[Any, memoryview]:
    """The value, of at most `most` bytes, and what belongs to it. Raises `LimitReached` (engine_gone) for an end, a timeout, or what is not such a message."""
    try:
        head = _exactly(sock, 8)
        size, more = int.from_bytes(head[:4]), int.from_bytes(head[4:])
        if size > most or more > MAX_BLOB:
            raise ValueError
        value = load_json(bytes(_exactly(sock, size)), limit=most)
        return value, memoryview(_exactly(sock, more))
    except (OSError, ValueError, PerunError):
        raise refuse(ENGINE_GONE, "the engine's process does not answer") from None


def listed(tensors: Sequence[Tensor]) -> tuple[list[dict[str, Any]], list[bytes | memoryview]]:
    """What is said of tensors, and their bytes."""
    said = [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape), "size": len(t.data)} for t in tensors]
    return said, [tensor.data for tensor in tensors]


def unlisted(said: Any, data: memoryview) -> list[Tensor]:
    """The tensors again, which are views of `data`. Raises `ValueError`: not what `listed` says, no tensors that a client could be told of, or of other sizes. The engine's process runs
    somebody's model: what it says is believed no further than a client's words."""
    if not isinstance(said, list) or len(said) > MAX_TENSORS:
        raise ValueError("not a list of tensors")
    made, at = [], 0
    for row in said:
        if not isinstance(row, dict) or set(row) != {"name", "datatype", "shape", "size"}:
            raise ValueError("not a tensor")
        try:
            size = checked(row["name"], row["datatype"], row["shape"])
        except PerunError as exc:
            raise ValueError(exc.code) from None
        if row["size"] != size or at + size > len(data):
            raise ValueError("other bytes than its shape has")
        made.append(Tensor(row["name"], row["datatype"], tuple(row["shape"]), data[at : at + size]))
        at += size
    if at != len(data):
        raise ValueError("bytes of no tensor")
    return made


def _exactly(sock: socket.socket, size: int) -> bytearray:
    out = bytearray(size)
    view, at = memoryview(out), 0
    while at < size:
        got = sock.recv_into(view[at:])
        if not got:
            raise ValueError("the other end closed")
        at += got
    return out
