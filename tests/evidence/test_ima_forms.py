"""Logs as text and with other hashes in the column: the same lines as in binary, or a refusal."""

from __future__ import annotations

import contextlib
import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.vectors import FOLDER, needs_vectors
from perunml.evidence.ima.forms import read_log
from perunml.evidence.ima.parse import TEMPLATES, parse_log
from perunml.evidence.ima.replay import check_template_hashes, replay
from perunml.evidence.offline.check import check_ima
from perunml.testing.forge import ForgedTpm
from perunml.testing.imalog import ImaLine, buffer_line, ima_line
from perunml.wire.errors import EvidenceRefusal

VM = FOLDER / "measured-vm"
CASES = ("A61", "B61-ima-ng", "C61-nobody", "D61-violation", "F61-policy", "H612-3banks", "M612-uki", "R612-verity")
EVM = [b"\3\2", b"a\nb"[:1] + b"\0", b"\4\0\0\0", b"\1\2", b"\0\0\0\0", b"\xe8\3\0\0", b"\xa4\x81"]


def text_of(lines: list[ImaLine], column: str = "sha1") -> bytes:
    """As ascii_runtime_measurements shows a log (ima_template_lib.c)."""
    out = []
    for pcr, template_hash, data, digest, path, template in parse_log(b"".join(line.encoded for line in lines))[0]:
        told = template_hash if column == "sha1" else hashlib.new(column, data).digest()
        if not any(template_hash):
            told = bytes(len(told))
        if template == b"ima":
            out.append(b"%2d %s ima %s %s" % (pcr, told.hex().encode(), data[:20].hex().encode(), path))
            continue
        shown = []
        at = 0
        for field in TEMPLATES[template]:
            (size,) = struct.unpack_from("<I", data, at)
            value, at = data[at + 4 : at + 4 + size], at + 4 + size
            if field.startswith(b"d-"):
                algorithm, _, raw = value.partition(b":\0")
                shown.append(algorithm + b":" + raw.hex().encode() if value else b"")
            elif field in (b"n-ng", b"xattrnames"):
                shown.append(value[:-1])
            elif field in (b"iuid", b"igid", b"imode"):
                shown.append(b"%d" % int.from_bytes(value, "little"))
            else:
                shown.append(value.hex().encode())
        out.append(b"%2d %s %s %s" % (pcr, told.hex().encode(), template, b" ".join(shown)))
        assert digest is not None
    return b"\n".join(out) + b"\n"


def widened(lines: list[ImaLine], bank: str) -> bytes:
    """As binary_runtime_measurements_<bank>: its own hash in the column."""
    out = []
    for line in lines:
        told = hashlib.new(bank, line.data).digest()
        out.append(line.encoded[:4] + (bytes(len(told)) if line.violation else told) + line.encoded[24:])
    return b"".join(out)


def every_line() -> list[ImaLine]:
    digest = hashlib.sha256(b"x").digest()
    lines = [ima_line(b"boot_aggregate", digest)]
    lines += [ima_line(b"/bin/x", digest, template=name.decode()) for name in TEMPLATES if name != b"evm-sig"]
    lines.append(ima_line(b"/bin/x", digest, template="ima"))
    lines.append(ima_line(b"/bin/with blank", digest, template="ima-sig", more=[b"\3\2\4sig"]))
    lines.append(ima_line(b"/bin/v", bytes(32), violation=True))
    lines.append(ima_line(b"/bin/evm", digest, template="evm-sig", more=EVM))
    lines.append(buffer_line(b".ima", b"certificate"))
    lines.append(ima_line(b"/bin/11", digest, pcr=9))
    return lines


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384", "sha512"])
def test_every_template_reads_the_same_as_text_and_with_any_column(bank: str) -> None:
    """The very lines of the binary log, and the form told."""
    lines = every_line()
    wanted, _ = parse_log(b"".join(line.encoded for line in lines))
    assert check_template_hashes(wanted) == []
    ending = "" if bank == "sha1" else f", {bank}"
    assert read_log(text_of(lines, bank)) == (wanted, "text" + ending)
    binary = widened(lines, bank) if bank != "sha1" else b"".join(line.encoded for line in lines)
    assert read_log(binary) == (wanted, "binary" + ending)


@needs_vectors
@pytest.mark.parametrize("case", CASES)
def test_a_kernels_text_is_its_binary_log(case: str) -> None:
    """Real kernels' lists side by side, each column they have."""
    wanted, form = read_log((VM / case / "ima.bin").read_bytes())
    assert form == "binary"
    assert read_log((VM / case / "ima.ascii").read_bytes())[0][: len(wanted)] == wanted
    for path in sorted((VM / case).glob("ima.*_runtime_measurements_*")):
        lines, form = read_log(path.read_bytes())
        kind, bank = path.name.split(".")[1].split("_")[0], path.name.rpartition("_")[2]
        assert form == {"ascii": "text", "binary": "binary"}[kind] + ("" if bank == "sha1" else f", {bank}")
        assert lines[: len(wanted)] == wanted
        assert check_template_hashes(lines) == []


@needs_vectors
def test_a_kernels_old_text_reads() -> None:
    """826 lines of SHA-1 digests, whose template hashes fit what was rebuilt."""
    lines, form = read_log((FOLDER / "ima" / "keylime__rust-keylime" / "ascii_runtime_measurements").read_bytes())
    assert (len(lines), form) == (826, "text")
    assert check_template_hashes(lines) == []


@needs_vectors
def test_a_log_of_every_template_and_of_own_formats_reads() -> None:
    """Fourteen templates in one binary log, custom formats among them."""
    lines, _ = read_log((FOLDER / "ima" / "kgoldman__ibmtss" / "imatest.log").read_bytes())
    assert {b"ima", b"ima-buf", b"evm-sig", b"ima-modsig", b"d-ng|sig", b"n-ng|d-ng"} <= {line[5] for line in lines}


@needs_vectors
def test_a_servers_log_with_another_pcr_and_violations_reads() -> None:
    """PCR 11 inside the list, 154 violations, a key entering a keyring: read here, refused by the appraisal."""
    lines, _ = read_log((FOLDER / "ima" / "immune-gmbh__guard-oss" / "sr630.binary_measurements").read_bytes())
    assert {line[0] for line in lines} == {10, 11}
    assert check_template_hashes(lines) == []
    assert sum(not any(line[1]) for line in lines) == 154


def test_text_is_told_to_be_weaker() -> None:
    """Claims say so; reasons do not: text alone is no fault."""
    tpm = ForgedTpm()
    pcr10 = ("sha256", tpm.pcrs["sha256"][10])
    for data, weaker in ((tpm.ima_log, False), (text_of(tpm.lines), True)):
        found = check_ima(data, pcr10)
        assert found.accepted
        assert found.claims["ima"]["weaker"] is weaker
        assert found.claims["ima"]["covered"] == len(tpm.lines)


def test_a_column_that_does_not_fit_is_refused() -> None:
    """I13 in the other forms."""
    lines = every_line()[:3]
    for data in (text_of(lines), text_of(lines, "sha256"), widened(lines, "sha512")):
        changed = data.replace(b"/bin/x", b"/bin/y")
        assert changed != data
        (reason,) = check_template_hashes(read_log(changed)[0])
        assert reason.code == "ima_template_hash"


@pytest.mark.parametrize(
    "data",
    [
        b"10",
        b"10 \n",
        b"10 00 ima-ng sha256:00 /x\n",
        b"10 " + b"0" * 40 + b" ima-ng sha256:0g /x\n",
        b"10 " + b"0" * 40 + b" ima-ng sha256:00\n",
        b"10 " + b"0" * 40 + b" ima-sig sha256:00 /x\n",
        b"10 " + b"0" * 40 + b" ima-sig sha256:00 /x AB\n",
        b"10 " + b"0" * 40 + b" ima-ng sha256:00 /x\0\n",
        b"10 " + b"0" * 40 + b" ima 00 /x\n",
        b"10 " + b"0" * 40 + b" ima " + b"0" * 40 + b" /" + b"a" * 255 + b"\n",
        b"10 " + b"0" * 40 + b" evm-sig sha256:00 /x     0 0 70000\n",
        b"100 " + b"0" * 40 + b" ima-ng sha256:00 /x\n",
        b"10 " + b"0" * 40 + b" ima-ng sha256:00 /x",
        b"10 " + b"0" * 40 + b" ima-ng sha256:00 /x\n\n",
    ],
)
def test_text_that_no_kernel_writes_is_refused(data: bytes) -> None:
    """Cut, of wrong sizes, of other letters, or with a line of nothing."""
    with pytest.raises(EvidenceRefusal) as caught:
        read_log(data)
    assert caught.value.code == "non_canonical"


def test_i15_text_of_an_unknown_template_is_refused() -> None:
    """I15: its data cannot be rebuilt."""
    with pytest.raises(EvidenceRefusal) as caught:
        read_log(b"10 " + b"0" * 40 + b" evil sha256:00 /x\n")
    assert caught.value.code == "ima_template"


@given(st.binary(max_size=200), st.integers(0, 2000), st.sampled_from(["text", "sha256", "binary"]))
@settings(max_examples=150, deadline=None)
def test_junk_in_any_form_never_crashes(junk: bytes, at: int, form: str) -> None:
    """A refusal, or lines."""
    lines = every_line()
    honest = {"text": text_of(lines), "sha256": widened(lines, "sha256"), "binary": lines[0].encoded}[form]
    for data in (junk, honest[:at] + junk, honest[:at] + junk + honest[at:]):
        with contextlib.suppress(EvidenceRefusal):
            assert all(len(line) == 6 for line in read_log(data)[0])


def test_a_log_as_text_replays() -> None:
    """The rebuilt data give the quoted PCR 10."""
    tpm = ForgedTpm()
    lines, _ = read_log(text_of(tpm.lines))
    assert replay(lines, {"sha256": tpm.pcrs["sha256"][10]}) == len(lines)
