"""Static facts of Python code, by reading it and never running it.

A fact is something that the text says. That it says nothing of the kind proves nothing: code can build names at run time, which is itself a
fact (`dynamic`), and data can be code. The sandbox confines what runs; this tells people what to look at (docs/checker.md).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SOURCE = 4 * 1024 * 1024
"""Bytes of one file: `ast` needs some hundred times as much."""
NETWORK = frozenset(
    [
        "socket",
        "socketserver",
        "ssl",
        "http",
        "urllib",
        "urllib3",
        "requests",
        "httpx",
        "aiohttp",
        "ftplib",
        "smtplib",
        "poplib",
        "imaplib",
        "telnetlib",
        "nntplib",
        "xmlrpc",
        "websockets",
        "websocket",
        "paramiko",
        "grpc",
        "boto3",
        "botocore",
        "asyncssh",
        "twisted",
        "tornado",
        "zmq",
        "pika",
        "redis",
        "pymongo",
        "psycopg",
        "psycopg2",
        "mlflow",
        "wandb",
        "huggingface_hub",
    ]
)
PROCESSES = frozenset(["subprocess", "multiprocessing", "pty", "signal", "concurrent"])
NATIVE = frozenset(["ctypes", "cffi", "_ctypes", "mmap", "resource", "fcntl", "cython", "pybind11"])
DYNAMIC = frozenset(
    [
        "importlib",
        "imp",
        "runpy",
        "code",
        "codeop",
        "marshal",
        "pickle",
        "dill",
        "cloudpickle",
        "joblib",
        "shelve",
        "zipimport",
        "pkgutil",
        "inspect",
        "gc",
    ]
)
WRITERS = frozenset(["shutil", "tempfile", "sqlite3", "dbm", "logging"])
_OS_PROCESSES = frozenset({"system", "popen", "fork", "forkpty", "kill", "posix_spawn", "posix_spawnp", "startfile"})
_OS_WRITES = frozenset(
    {"remove", "unlink", "rename", "renames", "replace", "rmdir", "removedirs", "mkdir", "makedirs", "symlink", "link", "truncate", "open", "write",
     "mkfifo", "mknod", "chmod", "chown"}
)  # fmt: skip
_CALLS_DYNAMIC = frozenset(
    {
        "eval",
        "exec",
        "compile",
        "__import__",
        "globals",
        "locals",
        "vars",
        "setattr",
        "getattr",
        "delattr",
        "breakpoint",
        "input",
    }
)
_METHODS_WRITE = frozenset(
    {
        "write_text",
        "write_bytes",
        "unlink",
        "rmdir",
        "mkdir",
        "touch",
        "symlink_to",
        "hardlink_to",
        "rename",
        "to_csv",
        "to_parquet",
        "to_pickle",
        "tofile",
        "save",
        "savez",
        "savetxt",
        "dump",
    }
)
_METHODS_DYNAMIC = frozenset(
    {
        "load_module",
        "exec_module",
        "__subclasses__",
        "__globals__",
        "__builtins__",
        "__class__",
        "__mro__",
        "__base__",
        "__bases__",
        "__code__",
    }
)
_TORCH = {
    "torch.distributed": "network",
    "torch.hub": "network",
    "torch.utils.cpp_extension": "native",
    "torch.multiprocessing": "processes",
}
OUT = "/out"
"""Where a job's outputs go: writing there is what jobs are for."""


@dataclass(frozen=True, slots=True)
class Fact:
    """`kind` as in `rules.FactKind`, or ``imports`` for every module, or ``unreadable``."""

    kind: str
    file: str
    line: int
    what: str

    @property
    def sentence(self) -> str:
        """For people."""
        return f"{self.file}:{self.line}: {self.what} ({self.kind})"


def facts(file: str, data: bytes) -> list[Fact]:
    """What a Python file says, by line. A file that Python's own parser does not take is one fact, `unreadable`."""
    if len(data) > MAX_SOURCE:
        return [Fact("unreadable", file, 1, f"{len(data)} bytes, more than {MAX_SOURCE}")]
    try:
        tree = ast.parse(data.decode("utf-8"), file)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        return [Fact("unreadable", file, getattr(exc, "lineno", None) or 1, f"not Python: {type(exc).__name__}")]
    try:
        found = [fact for node in ast.walk(tree) for fact in _of(file, node)]
    except RecursionError:
        return [Fact("unreadable", file, 1, "nested too deep to be read")]
    return sorted(found, key=lambda fact: (fact.line, fact.kind, fact.what))


def _of(file: str, node: ast.AST) -> Iterator[Fact]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _imported(file, node.lineno, alias.name)
    elif isinstance(node, ast.ImportFrom):
        if node.level:
            return  # of this very asset
        for alias in node.names:
            yield from _imported(file, node.lineno, node.module or "", alias.name)
    elif isinstance(node, ast.Call):
        yield from _called(file, node)
    elif isinstance(node, ast.Attribute) and node.attr in _METHODS_DYNAMIC:
        yield Fact("dynamic", file, node.lineno, node.attr)
    elif isinstance(node, ast.Name) and node.id in ("__builtins__", "__loader__", "__spec__"):
        yield Fact("dynamic", file, node.lineno, node.id)


def _imported(file: str, line: int, module: str, name: str = "") -> Iterator[Fact]:
    top = module.partition(".")[0]
    yield Fact("imports", file, line, top)
    whole = f"{module}.{name}" if name else module
    kinds = (
        ("network", NETWORK),
        ("processes", PROCESSES),
        ("native", NATIVE),
        ("dynamic", DYNAMIC),
        ("writes", WRITERS),
    )
    for kind, known in kinds:
        if top in known:
            yield Fact(kind, file, line, f"import {module}")
    for prefix, kind in _TORCH.items():
        if whole == prefix or whole.startswith(prefix + ".") or module == prefix:
            yield Fact(kind, file, line, f"import {whole}")
    if top in ("os", "posix") and name:
        yield from _os(file, line, name)
    if name == "*":
        yield Fact("dynamic", file, line, f"from {module} import *")


def _called(file: str, node: ast.Call) -> Iterator[Fact]:
    called, line = node.func, node.lineno
    if isinstance(called, ast.Name):
        if called.id in _CALLS_DYNAMIC and not _named_literally(called.id, node):
            yield Fact("dynamic", file, line, f"{called.id}(…)")
        if called.id == "open" and _writes(node, 1):
            yield Fact("writes", file, line, "open(…) for writing, not below /out in so many words")
    elif isinstance(called, ast.Attribute):
        owner = called.value.id if isinstance(called.value, ast.Name) else ""
        if owner in ("os", "posix"):
            yield from _os(file, line, called.attr)
        elif called.attr in _METHODS_WRITE and not _below_out(node):
            yield Fact("writes", file, line, f".{called.attr}(…), not below /out in so many words")
        elif called.attr == "open" and _writes(node, 0 if owner not in ("io", "gzip", "bz2", "lzma", "codecs") else 1):
            yield Fact("writes", file, line, ".open(…) for writing, not below /out in so many words")
        if owner == "torch" and called.attr in ("load", "compile"):
            yield Fact("dynamic", file, line, f"torch.{called.attr}(…)")
        if owner == "builtins":
            yield Fact("dynamic", file, line, f"builtins.{called.attr}(…)")


def _os(file: str, line: int, name: str) -> Iterator[Fact]:
    if name in _OS_PROCESSES or name.startswith(("exec", "spawn")):
        yield Fact("processes", file, line, f"os.{name}")
    if name in _OS_WRITES:
        yield Fact("writes", file, line, f"os.{name}")


def _named_literally(name: str, node: ast.Call) -> bool:
    """`getattr(x, "literal")` names what the text says; with two underscores it is asked about all the same."""
    if name not in ("getattr", "setattr", "delattr") or len(node.args) < 2:
        return False
    second = node.args[1]
    return isinstance(second, ast.Constant) and isinstance(second.value, str) and not second.value.startswith("__")


def _writes(node: ast.Call, place: int) -> bool:
    """Whether a call of `open` may write somewhere but below /out: its mode is not a text without w, a, x and +."""
    given = node.args[place] if len(node.args) > place else None
    named = next((keyword.value for keyword in node.keywords if keyword.arg == "mode"), None)
    if any(keyword.arg is None for keyword in node.keywords) or any(isinstance(arg, ast.Starred) for arg in node.args):
        return True
    mode = named if named is not None else given
    if mode is None or (
        isinstance(mode, ast.Constant) and isinstance(mode.value, str) and not set(mode.value) & set("wax+")
    ):
        return False
    return not _below_out(node)


def _below_out(node: ast.Call) -> bool:
    """Whether a path below /out stands in the call itself, as a literal: first, second, or in what the method is called on."""
    around: list[ast.AST] = [*node.args[:2], node.func]
    literals = [
        found.value
        for one in around
        for found in ast.walk(one)
        if isinstance(found, ast.Constant) and isinstance(found.value, str) and found.value.startswith("/")
    ]
    return bool(literals) and all(
        (text == OUT or text.startswith(OUT + "/")) and ".." not in text.split("/") for text in literals
    )
