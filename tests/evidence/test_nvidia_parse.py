"""Reports that are not of their form, each broken in one place and signed by an honest device all the same."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.nvidia_forged import NONCE, card, refused, vendor
from perunml.evidence.nvidia import fields as opaque
from perunml.evidence.nvidia.fields import gpu_fields, switch_fields
from perunml.evidence.nvidia.parse import parse_report
from perunml.evidence.parts import MAX_REPORT
from perunml.testing.nvidia import block, exchange, field_, measurement
from perunml.wire.errors import EvidenceRefusal

TWO = block(1, measurement(0)) + block(2, measurement(1))


def test_an_honest_report_is_read() -> None:
    """Nonce, measurements from 1, fields by number."""
    spdm = parse_report(card().report(NONCE).report)
    assert spdm.nonce == NONCE
    assert spdm.measurements == {index + 1: measurement(index) for index in range(40)}
    assert spdm.fields[opaque.FWID] == card().fields[opaque.FWID]
    assert gpu_fields(spdm.fields).vbios == "96.00.9F.00.01"


@pytest.mark.parametrize(
    "broken",
    [
        {"request": b"\x12\xe0\x01\xff"},
        {"request": b"\x11\xe1\x01\xff"},
        {"request": b"\x11\xe0\x00\xff"},
        {"request": b"\x11\xe0\x01\x01"},
        {"slot": b"\1"},
        {"response": b"\x11\x61\0\0"},
        {"response": b"\x11\x60\0\1"},
        {"response": b"\x10\x60\0\0"},
        {"after": b"\0"},
        {"blocks": b"\x01", "record": TWO},
        {"blocks": b"\x03", "record": TWO},
        {"blocks": b"\x00", "record": b""},
        {"blocks": b"\x02", "record": block(1, measurement(0)) * 2},
        {"blocks": b"\x02", "record": block(2, measurement(0)) + block(1, measurement(0))},
        {"blocks": b"\x01", "record": block(0, measurement(0))},
        {"blocks": b"\x01", "record": block(1, measurement(0), specification=2)},
        {"blocks": b"\x01", "record": block(1, b"")},
        {"blocks": b"\x01", "record": block(1, measurement(0), kind=0x81)},
        {"blocks": b"\x01", "record": block(1, measurement(0))[:-1]},
        {"extra": b"\x01"},
        {"extra": field_(opaque.FWID, bytes(48))},
        {"extra": field_(0, b"x")},
        {"extra": field_(255, b"x")},
        {"extra": b"\x50\x00\x05\x00abcd"},
    ],
    ids=lambda broken: f"{next(iter(broken))}={next(iter(broken.values())).hex()[:12]}",
)
def test_another_form_is_refused(broken: dict[str, Any]) -> None:
    """Versions, codes, slots, counts, orders, lengths, duplicates, trailing bytes."""
    assert refused(card().report(NONCE, **broken)) == ["non_canonical"]


def test_a_field_that_is_not_known_is_left_alone() -> None:
    """Newer firmware tells more."""
    assert refused(card().report(NONCE, extra=field_(0x1234, b"new"))) == []


def test_too_many_bytes_are_not_looked_at() -> None:
    """The bound of the part's form, held here too: all else about this report is as it must be."""
    part = card().report(NONCE, extra=field_(0x1234, bytes(MAX_REPORT)))
    assert len(part.report) > MAX_REPORT
    assert refused(part) == ["non_canonical"]


def test_every_truncation_is_refused() -> None:
    """At each length."""
    report = card().report(NONCE).report
    for size in range(0, len(report), 11):
        with pytest.raises(EvidenceRefusal):
            parse_report(report[:size])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (opaque.DRIVER_VERSION, None),
        (opaque.DRIVER_VERSION, b"\0"),
        (opaque.DRIVER_VERSION, b"550\x1b[0m"),
        (opaque.VBIOS_VERSION, bytes(7)),
        (opaque.VBIOS_VERSION, b"\0\x9f\0\x96\1\1\0\0"),
        (opaque.FWID, bytes(32)),
        (opaque.NVDEC0_STATUS, None),
        (opaque.NVDEC0_STATUS, b"\x54"),
        (opaque.FEATURE_FLAG, b"\x03"),
        (opaque.FEATURE_FLAG, bytes(9)),
        (opaque.FEATURE_FLAG, None),
        (opaque.SWITCH_PDI, bytes(9)),
    ],
)
def test_g3_a_gpus_field_that_is_missing_or_odd_is_refused(kind: int, value: bytes | None) -> None:
    """Also a mode that is not known, and a version of the data that has a mode, without it."""
    device = vendor().gpu()
    device.fields[kind] = value
    assert refused(device.report(NONCE)) == ["non_canonical"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (opaque.VBIOS_VERSION, None),
        (opaque.SWITCH_GPUS, None),
        (opaque.SWITCH_GPUS, bytes(63)),
        (opaque.SWITCH_LOCK, None),
        (opaque.SWITCH_LOCK, b"\1"),
    ],
)
def test_a_switchs_field_that_is_missing_or_odd_is_refused(kind: int, value: bytes | None) -> None:
    """As a GPU's."""
    device = vendor().switch()
    device.fields[kind] = value
    assert refused(device.report(NONCE)) == ["non_canonical"]


def test_modes_are_told_in_each_form_of_the_report() -> None:
    """By flag, before that by the state of protected PCIe, before that not at all."""
    told = dict(card().fields)
    read = {kind: value for kind, value in told.items() if value is not None}
    assert gpu_fields(read).mode == "spt"
    assert gpu_fields({**read, opaque.FEATURE_FLAG: b"\1\0"}).mode == "mpt"
    assert gpu_fields({**read, opaque.FEATURE_FLAG: b"\2\0"}).mode == "ppcie"
    del read[opaque.FEATURE_FLAG], read[opaque.DATA_VERSION]
    assert gpu_fields(read).mode == "cc"
    assert gpu_fields({**read, opaque.PROTECTED_PCIE: opaque.ON}).mode == "ppcie"
    del read[opaque.PROTECTED_PCIE]
    assert gpu_fields(read).mode == "unstated"
    assert gpu_fields({**read, opaque.DATA_VERSION: b"\0\0"}).mode == "unstated"


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Never another exception; alone, and behind an honest beginning."""
    for tried in (data, card().report(NONCE).report[:37] + data):
        with suppress(EvidenceRefusal):
            parse_report(tried)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.integers(1, 40), st.binary(max_size=150), max_size=12))
def test_any_fields_are_understood_or_refused(fields: dict[int, bytes]) -> None:
    """Of a GPU and of a switch, beside honest ones."""
    device = card()
    for read, base in ((gpu_fields, device.fields), (switch_fields, {}), (gpu_fields, {})):
        with suppress(EvidenceRefusal):
            read({kind: value for kind, value in {**base, **fields}.items() if value is not None})


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, 254), st.binary(min_size=1, max_size=64), min_size=1, max_size=20),
    st.dictionaries(st.integers(1, 254), st.binary(max_size=64), max_size=10),
)
def test_what_is_written_is_what_is_read(measurements: dict[int, bytes], fields: dict[int, bytes]) -> None:
    """Round trip over the forge's writer."""
    spdm = parse_report(exchange(NONCE, measurements, fields, card().leaf.key))
    assert dict(spdm.measurements) == {index + 1: value for index, value in measurements.items()}
    assert dict(spdm.fields) == fields
