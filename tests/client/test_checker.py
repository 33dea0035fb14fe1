"""The checker: what it reads in code, what it has against a document, and that it signs nothing that it could not judge."""

from __future__ import annotations

from typing import Any

import pytest

from agreements.sample import document, edit
from perunml.agreements.document import agreement_from_json
from perunml.client.checker.facts import facts
from perunml.client.checker.judge import Code, changed_lines, findings
from perunml.client.checker.rules import Rules, read_rules
from perunml.wire.errors import PerunError

HEAD = b"apiVersion: perunml/v1\nkind: Checker\nagreements: [brain-mri-2027]\n"
AGREEMENT = agreement_from_json(document())
NAME = AGREEMENT.name.encode()


def rules(text: str) -> Rules:
    return read_rules(HEAD.replace(b"brain-mri-2027", NAME) + b"versions: any\n" + text.encode())


def kinds(source: str) -> set[str]:
    return {fact.kind for fact in facts("train.py", source.encode())}


SAID = {
    "network": ["import socket", "from urllib import request", "import torch.distributed as dist", "from torch import hub",
                "def f():\n  import requests", "import os, ssl"],
    "processes": ["import subprocess", "import os\nos.system('ls')", "from os import fork", "import os\nos.execv('a', [])",
                  "import multiprocessing.pool"],
    "native": ["import ctypes", "from torch.utils import cpp_extension", "from mmap import mmap"],
    "dynamic": ["eval('1')", "exec(x)", "__import__('socket')", "import importlib", "import pickle", "getattr(os, name)",
                "getattr(os, '__dict__')", "().__class__.__base__.__subclasses__()", "from os import *", "import torch\ntorch.load('x')",
                "globals()['x']", "x = __builtins__", "import builtins\nbuiltins.eval('1')"],
    "writes": ["open('/tmp/x', 'w')", "open(p, mode='ab')", "open(p, *args)", "open(p, m)", "from pathlib import Path\nPath('x').write_text('')",
               "import os\nos.remove('x')", "import shutil", "import numpy\nnumpy.save('/in/x', a)", "open('/out/../in/x', 'w')",
               "import io\nio.open('x', 'w')", "open(**k)"],
}  # fmt: skip


@pytest.mark.parametrize("kind", SAID)
def test_facts_are_found(kind: str) -> None:
    """Each way to say it, at the top and inside."""
    for source in SAID[kind]:
        assert kind in kinds(source), source
        assert kind in kinds(
            "class A:\n  def f(self):\n    if 1:\n" + "".join(f"      {line}\n" for line in source.splitlines())
        )


@pytest.mark.parametrize(
    "source",
    ["import torch\nfrom torch import nn\nx = open('/in/scans/a.csv').read()", "open('/out/model.pt2', 'wb')", "from . import layers",
     "getattr(model, 'weight')", "import torch\ntorch.export.save(m, '/out/model.pt2')", "open('a', 'r')", "x.open()", "print('socket')"],
)  # fmt: skip
def test_ordinary_code_says_nothing(source: str) -> None:
    """Reading, and writing below /out."""
    assert kinds(source) <= {"imports"}


def test_what_cannot_be_read_is_a_fact() -> None:
    """Broken, another encoding, too deep, too long."""
    for data in (b"def (", b"\xff\xfe", b"x = " + b"(" * 5000 + b")" * 5000, b"x" * (5 * 1024 * 1024), b"a\x00b"):
        assert {fact.kind for fact in facts("a.py", data)} == {"unreadable"}


CODE = {"train.py": b"import torch\n", "data.txt": b"1,2\n"}


def against(text: str, files: Any = None, **more: Any) -> set[str]:
    code = Code(CODE if files is None else files, **more) if not isinstance(files, str) else files
    return {found.rule for found in findings(rules(text), AGREEMENT, None, {"unet": code})}


def test_each_rule_of_code() -> None:
    """Met by this code, and not by another."""
    assert (
        against("code: {unet: {max_size: 1KiB, files: ['*.py', '*.txt'], forbid: [network], imports: [torch]}}")
        == set()
    )
    assert against("code: {unet: {max_size: 10B}}") == {"code.unet.max_size"}
    assert against("code: {unet: {files: ['*.py']}}") == {"code.unet.files"}
    assert against("code: {unet: {files: ['*.py']}}", {"a/b.py": b""}) == {"code.unet.files"}
    assert against("code: {unet: {files: ['**.py']}}", {"a/b.py": b""}) == set()
    assert against("code: {unet: {imports: [math]}}") == {"code.unet.imports"}
    assert against("code: {unet: {imports: [math]}}", {"a.py": b"import layers", "layers/b.py": b""}) == set()
    assert against("code: {unet: {forbid: [network]}}", {"a.py": b"import socket"}) == {"code.unet.forbid"}
    assert against("code: {unet: {forbid: [writes]}}", {"a.py": b"import socket"}) == set()
    assert against("code: {unet: {forbid: [network]}}", {"a.so": b"\x7fELF\x00"}) == {"code.unet.forbid"}
    assert against("code: {unet: {forbid: [network]}}", {"run": b"import socket"}, entry="run") == {"code.unet.forbid"}
    assert against("code: {unet: {forbid: [network]}}", {"run": b"#!/usr/bin/env python3\nimport socket"}) == {
        "code.unet.forbid"
    }
    assert against("code: {unet: {forbid: [network]}}", {"a.py": b"def ("}) == {"code.unet.forbid"}
    assert against("code: {unet: {changed: 1}}") == {"code.unet.changed"}
    assert against("code: {unet: {changed: 1}}", CODE, before={**CODE, "train.py": b"import math\n"}) == set()
    assert against("code: {unet: {changed: 1}}", CODE, before={}) == {"code.unet.changed"}


def test_code_that_is_not_here_is_not_signed() -> None:
    """Nor code without a rule."""
    assert against("code: {unet: {max_size: 1KiB}}", "no such asset") == {"code.unet"}
    assert against("limits: {runs: 100}") == {"code"}
    assert {found.rule for found in findings(rules("code: {unet: {max_size: 1KiB}}"), AGREEMENT, None, {})} == {
        "code.unet"
    }


def test_lines_are_counted_as_people_do() -> None:
    """Added, taken away, altered, in files that come and go."""
    assert changed_lines({"a": b"1\n2\n"}, {"a": b"1\n2\n"}) == 0
    assert changed_lines({"a": b"1\n2\n"}, {"a": b"1\n3\n4\n"}) == 2
    assert changed_lines({"a": b"1\n2\n"}, {}) == 2
    assert changed_lines({}, {"b": b"1\n"}) == 1


def test_each_rule_of_the_document() -> None:
    """Outputs, limits, hosts, versions, names."""
    rule = "code: {unet: {max_size: 1KiB}}\n"
    assert against(rule + "outputs: {formats: [json]}") == {"outputs.formats"}
    assert against(rule + "outputs: {max_size: 1KiB}") == {"outputs.max_size"}
    assert against(rule + "outputs: {to: [clinic]}") == {"outputs.to"}
    assert against(rule + "limits: {runs: 1}") == {"limits.runs"}
    assert against(rule + "limits: {wall: 1h}") == {"limits.wall"}
    assert against(rule + 'limits: {until: "2027-01-01T00:00:00Z"}') == {"limits.until"}
    assert against(rule + "profiles: [gpu-cc]") == {"profiles"}
    other = HEAD + b"versions: any\n" + rule.encode()
    assert {
        found.rule
        for found in findings(
            read_rules(other.replace(b"brain-mri-2027", b"other")), AGREEMENT, None, {"unet": Code(CODE)}
        )
    } == {"agreements"}


def test_narrowing_alone() -> None:
    """A first version is none, a narrower one is, a wider one is not."""
    narrowing = read_rules(
        HEAD.replace(b"brain-mri-2027", NAME) + b"versions: narrowing\ncode: {unet: {max_size: 1KiB}}\n"
    )

    def judged(field: str, value: Any) -> set[str]:
        made = edit(document(), field, value)
        made["metadata"] |= {"version": 2, "predecessor": AGREEMENT.digest}
        second = agreement_from_json(made)
        return {found.rule for found in findings(narrowing, second, AGREEMENT, {"unet": Code(CODE)})}

    assert judged("jobs/train/limits/wall", "1h") == set()
    assert judged("jobs/train/limits/wall", "99h") == {"versions"}
    assert {found.rule for found in findings(narrowing, AGREEMENT, None, {"unet": Code(CODE)})} == {"versions"}


@pytest.mark.parametrize(
    "text",
    ["", "versions: sometimes", "versions: any\ncode: {unet: {}}", "versions: any\nmore: 1", "versions: any\ncode: {unet: {forbid: [all]}}",
     "versions: any\nlimits: {runs: -1}", "versions: any\ncode: {unet: {forbid: [network], forbid: [writes]}}", "versions: any\noutputs: {}"],
)  # fmt: skip
def test_a_file_that_is_not_of_its_form_is_refused(text: str) -> None:
    """Misspelt, empty, twice, more: nothing is guessed."""
    with pytest.raises(PerunError, match="malformed"):
        read_rules(HEAD + text.encode())
    with pytest.raises(PerunError, match="malformed"):
        read_rules(b"kind: Checker\nagreements: [a]\nversions: any\n")
