"""A party's command line in this process, with its passphrase on a descriptor as scripts give it."""

from __future__ import annotations

import contextlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perunml.cli.root import run

PASSPHRASE = b"correct horse battery staple"


@dataclass(frozen=True)
class Said:
    """What one command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout's one JSON value."""
        return json.loads(self.out)

    @property
    def reasons(self) -> list[str]:
        """The codes on stderr, of ``-o json`` or of text."""
        if self.err.startswith("{"):
            said = json.loads(self.err)
            assert said["exit"] == self.code
            return [reason["code"] for reason in said["reasons"]]
        return [line.split(": ")[1] for line in self.err.splitlines() if line.startswith("refused: ")]


@dataclass(frozen=True)
class Party:
    """One home folder."""

    home: Path

    def __call__(self, *arguments: object, passphrase: bytes | None = PASSPHRASE) -> Said:
        """Run ``perunml *arguments``; without a passphrase there is no descriptor either."""
        words = ["--home", str(self.home), *map(str, arguments)]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.ExitStack() as stack:
            if passphrase is not None:
                reading, writing = os.pipe()
                stack.callback(os.close, reading)
                os.write(writing, passphrase)
                os.close(writing)
                words = ["--passphrase-fd", str(reading), *words]
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            code = run(words)
        return Said(code, out.getvalue(), err.getvalue())

    def ok(self, *arguments: object) -> Any:
        """The JSON that a command answers with ``-o json``; it must succeed."""
        said = self("-o", "json", *arguments)
        assert said.code == 0, said.err
        assert said.err == ""
        return said.json

    def refused(self, *arguments: object, passphrase: bytes | None = PASSPHRASE) -> tuple[int, str]:
        """Exit code and first reason of a command that must not succeed; text and JSON must agree."""
        text = self(*arguments, passphrase=passphrase)
        said = self("-o", "json", *arguments, passphrase=passphrase)
        assert said.code == text.code != 0
        assert said.reasons == text.reasons
        assert said.out == ""
        return said.code, said.reasons[0]
