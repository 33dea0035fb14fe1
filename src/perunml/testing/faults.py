"""Forged evidence, broken: one fault each, by the number it has among the refusals, with the code that must answer.

`FAULTS` is a table of attempts on a machine that is otherwise right. Each makes the bundle that its attacker would send.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from perunml.evidence.bundle import Bundle, TpmPart
from perunml.evidence.ima.appraise import MAX_LAG
from perunml.evidence.tpm.algorithms import CURVE_ORDERS, HASH_IDS, RSASSA
from perunml.testing.forge import FILES, QUOTED, ForgedTpm, Quoting, new_key
from perunml.testing.imalog import ImaLine, boot_aggregate
from perunml.testing.structures import bitmap, selection, sized

Break = Callable[[ForgedTpm, bytes], Bundle]


@dataclass(frozen=True, slots=True)
class Fault:
    """`number` as among the refusals, `name` what is attempted, `code` what must answer, `make` the evidence.

    `tpm` are the forged machine's own options, where it must not be the default one.
    """

    number: str
    name: str
    code: str
    make: Break
    tpm: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        return f"{self.number}-{self.name}"


def flip(data: bytes, bit: int) -> bytes:
    """`data` with one bit flipped; `bit` counts from the start, modulo its length."""
    bit %= len(data) * 8
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _part(bundle: Bundle) -> TpmPart:
    part = bundle.parts[0]
    assert isinstance(part, TpmPart)
    return part


def _signed(quoting: Callable[[ForgedTpm, bytes], Quoting]) -> Break:
    """A fault inside what is (correctly) signed."""
    return lambda tpm, binding: tpm.bundle(binding, quoting(tpm, binding))


def _sent(change: Callable[[TpmPart], TpmPart]) -> Break:
    """A fault in what is sent beside a good signature."""
    return lambda tpm, binding: Bundle((change(_part(tpm.bundle(binding))),))


def _values(tpm: ForgedTpm, indices: Sequence[int] = QUOTED) -> dict[str, dict[int, bytes]]:
    return {"sha256": {i: tpm.pcrs["sha256"][i] for i in indices}}


def _relabelled(signed: Sequence[int], told: Sequence[int]) -> Break:
    """Values of some PCRs, shown as those of others."""

    def quoting(tpm: ForgedTpm, _: bytes) -> Quoting:
        source = tpm.pcrs["sha256"]
        shown = {"sha256": {t: source[s] for s, t in zip(signed, told, strict=True)}}
        return Quoting(banks=[("sha256", signed)], values=shown)

    return _signed(quoting)


def _other_key(tpm: ForgedTpm, binding: bytes) -> Bundle:
    other = ForgedTpm(ca=tpm.ca)
    other.pcrs, other.lines = tpm.pcrs, tpm.lines
    return other.bundle(binding)


def _swapped_pcrs(part: TpmPart) -> TpmPart:
    values = dict(part.pcrs["sha256"])
    values[0], values[4] = values[4], values[0]
    return replace(part, pcrs={"sha256": values})


def _with_bank(part: TpmPart) -> TpmPart:
    return replace(part, pcrs={**part.pcrs, "sha384": {i: bytes(48) for i in QUOTED}})


def _with_signature(parts: Callable[[bytes, bytes], tuple[bytes, bytes]]) -> Break:
    def change(part: TpmPart) -> TpmPart:
        r, s = parts(part.signature[6:38], part.signature[40:72])
        return replace(part, signature=part.signature[:4] + sized(r) + sized(s))

    return _sent(change)


_PATH, _CONTENT = next(iter(FILES.items()))
_N = CURVE_ORDERS["p256"].to_bytes(32)


def _scheme(scheme: int, hash_id: int) -> Break:
    head = scheme.to_bytes(2) + hash_id.to_bytes(2)
    return _sent(lambda part: replace(part, signature=head + part.signature[4:]))


QUOTE_FAULTS: tuple[Fault, ...] = (
    Fault("N6", "extra_data_prefix", "binding_mismatch", _signed(lambda t, b: Quoting(extra_data=_extra(b)[:16]))),
    Fault("N6", "extra_data_zeros", "binding_mismatch", _signed(lambda t, b: Quoting(extra_data=_extra(b) + bytes(8)))),
    Fault("N6", "extra_data_junk", "binding_mismatch", _signed(lambda t, b: Quoting(extra_data=_extra(b) + b"junk"))),
    Fault("N6", "extra_data_empty", "binding_mismatch", _signed(lambda t, b: Quoting(extra_data=b""))),
    Fault(
        "N7",
        "extra_data_hex_text",
        "binding_mismatch",
        _signed(lambda t, b: Quoting(extra_data=_extra(b).hex().encode())),
    ),
    Fault("N7", "binding_itself", "binding_mismatch", _signed(lambda t, b: Quoting(extra_data=b))),
    Fault("Q1", "signature_bit", "quote_signature", _sent(lambda p: replace(p, signature=flip(p.signature, 200)))),
    Fault("Q2", "attest_bit", "quote_signature", _sent(lambda p: replace(p, attest=flip(p.attest, 450)))),
    Fault("Q3", "magic", "not_tpm_generated", _signed(lambda t, b: Quoting(magic=0x12345678))),
    *(
        Fault("Q4", name, "wrong_attest_type", _signed(lambda t, b, kind=kind: Quoting(kind=kind)))  # type: ignore[misc]  # a lambda with a default
        for name, kind in {"certify": 0x8017, "time": 0x8019, "creation": 0x801A, "nv": 0x8014}.items()
    ),
    Fault("Q5", "pcr16_as_pcr0", "pcr_selection", _relabelled([16], [0])),
    Fault("Q6", "upper_eight_as_lower", "pcr_selection", _relabelled(range(8, 16), range(8))),
    Fault("Q7", "16_23_as_10_16", "pcr_selection", _relabelled([16, 23], [10, 16])),
    Fault(
        "Q8",
        "unsigned_pcr_beside",
        "pcr_selection",
        _signed(lambda t, b: Quoting(banks=[("sha256", range(1, 15))], values=_values(t))),
    ),
    Fault(
        "Q9", "required_pcr_missing", "pcr_selection", _signed(lambda t, b: Quoting(banks=[("sha256", range(1, 15))]))
    ),
    Fault("Q10", "sha1_only", "weak_bank", lambda t, b: t.bundle(b), (("banks", ("sha1",)),)),
    Fault(
        "Q11",
        "bank_swapped",
        "pcr_selection",
        _signed(lambda t, b: Quoting(values={"sha384": {i: bytes(48) for i in QUOTED}})),
    ),
    Fault(
        "Q11",
        "sha1_as_sha256",
        "pcr_selection",
        lambda t, b: t.bundle(b, Quoting(banks=[("sha1", QUOTED)], values=_values(t))),
        (("banks", ("sha1", "sha256")),),
    ),
    Fault(
        "Q12",
        "second_bank_contradicts",
        "pcr10_mismatch",
        lambda t, b: _contradicting(t).bundle(b),
        (("banks", ("sha256", "sha384")),),
    ),
    Fault(
        "Q13",
        "bank_twice",
        "pcr_selection",
        _signed(lambda t, b: Quoting(selected=selection([("sha256", QUOTED), ("sha256", QUOTED)]))),
    ),
    *(
        Fault(
            "Q14",
            f"bitmap_of_{size}",
            "pcr_selection",
            _signed(
                lambda t, b, size=size: Quoting(  # type: ignore[misc]  # a lambda with a default
                    selected=(1).to_bytes(4) + HASH_IDS["sha256"].to_bytes(2) + bitmap(QUOTED, size)
                )
            ),
        )
        for size in (0, 1, 2, 4, 255)
    ),
    Fault("Q15", "count_of_4g", "pcr_selection", _signed(lambda t, b: Quoting(selected=b"\xff" * 4))),
    Fault("Q16", "attest_trailing", "non_canonical", _signed(lambda t, b: Quoting(trailing=b"\0"))),
    Fault("Q8", "unsigned_bank_beside", "pcr_selection", _sent(_with_bank)),
    Fault("Q17", "signature_trailing", "non_canonical", _sent(lambda p: replace(p, signature=p.signature + b"\0"))),
    Fault("Q18", "rsassa_sha1", "weak_scheme", _scheme(RSASSA, 0x0004)),
    Fault("Q18", "hmac", "weak_scheme", _scheme(0x0005, 0x000B)),
    Fault("Q18", "null", "weak_scheme", _sent(lambda p: replace(p, signature=b"\x00\x10"))),
    Fault("Q18", "ecdaa", "weak_scheme", _scheme(0x001A, 0x000B)),
    Fault("Q19", "hash_id_differs", "weak_scheme", _scheme(0x0018, 0x000C)),
    Fault("Q20", "r_zero", "non_canonical", _with_signature(lambda r, s: (bytes(32), s))),
    Fault("Q20", "s_zero", "non_canonical", _with_signature(lambda r, s: (r, bytes(32)))),
    Fault("Q20", "r_is_n", "non_canonical", _with_signature(lambda r, s: (_N, s))),
    Fault("Q20", "s_is_n", "non_canonical", _with_signature(lambda r, s: (r, _N))),
    Fault("Q20", "r_too_wide", "non_canonical", _with_signature(lambda r, s: (b"\0" + r, s))),
    Fault("Q20", "s_too_narrow", "non_canonical", _with_signature(lambda r, s: (r, s[:31]))),
    Fault("Q23", "clock_unsafe", "clock_unsafe", _signed(lambda t, b: Quoting(clock=(t.clock, 1, 0, 0)))),
    Fault("Q25", "two_pcrs_swapped", "pcr_digest", _sent(_swapped_pcrs)),
    Fault("Q26", "another_ak", "unknown_ak", _other_key),
    Fault(
        "Q26",
        "another_ak_same_name",
        "quote_signature",
        _signed(lambda t, b: Quoting(key=new_key("p256"))),
    ),
    Fault("Q28", "signer_of_another_hierarchy", "unknown_ak", _signed(lambda t, b: Quoting(signer=_owner_name(t)))),
    Fault(
        "Q29",
        "pcr_of_20_bytes",
        "pcr_selection",
        _sent(lambda p: replace(p, pcrs={"sha256": {**p.pcrs["sha256"], 0: p.pcrs["sha256"][0][:20]}})),
    ),
    Fault(
        "Q29",
        "pcr_of_48_bytes",
        "pcr_selection",
        _sent(lambda p: replace(p, pcrs={"sha256": {**p.pcrs["sha256"], 0: bytes(48)}})),
    ),
    Fault(
        "Q30",
        "nothing_selected",
        "pcr_selection",
        _signed(
            lambda t, b: Quoting(selected=bytes(4), values={"sha256": {}}, pcr_digest=hashlib.sha256(b"").digest())
        ),
    ),
    Fault(
        "Q30",
        "empty_bitmap",
        "pcr_selection",
        _signed(lambda t, b: Quoting(banks=[("sha256", [])], values={"sha256": {}})),
    ),
)


def _extra(binding: bytes) -> bytes:
    return hashlib.sha256(binding).digest()


def _owner_name(tpm: ForgedTpm) -> bytes:
    """The qualified name that the key would have as a primary key of the owner's hierarchy."""
    name = HASH_IDS["sha256"].to_bytes(2) + hashlib.sha256(tpm.ak_public[2:]).digest()
    return name[:2] + hashlib.sha256((0x40000001).to_bytes(4) + name).digest()


def _contradicting(tpm: ForgedTpm) -> ForgedTpm:
    tpm.pcrs["sha384"][10] = hashlib.sha384(tpm.pcrs["sha384"][10] + bytes(48)).digest()
    return tpm


# IMA logs: what is signed is right, and the log is not


def _log(change: Callable[[list[bytes]], list[bytes]]) -> Break:
    def make(tpm: ForgedTpm, binding: bytes) -> Bundle:
        lines = change([line.encoded for line in tpm.lines])
        return tpm.bundle(binding, Quoting(log=b"".join(lines)))

    return make


def _after(act: Callable[[ForgedTpm], object]) -> Break:
    """The machine really does something, which its quote then proves."""

    def make(tpm: ForgedTpm, binding: bytes) -> Bundle:
        act(tpm)
        return tpm.bundle(binding)

    return make


def _without_first(tpm: ForgedTpm, binding: bytes) -> Bundle:
    return _rebuilt(tpm, lambda t: t.lines[1:]).bundle(binding)


def _aggregate_last(tpm: ForgedTpm, binding: bytes) -> Bundle:
    return _rebuilt(tpm, lambda t: [*t.lines[1:], t.lines[0]]).bundle(binding)


def _wrong_aggregate(tpm: ForgedTpm, binding: bytes) -> Bundle:
    return _rebuilt(tpm, lambda t: [boot_aggregate([bytes(32)] * 10), *t.lines[1:]]).bundle(binding)


def _rebuilt(tpm: ForgedTpm, lines: Callable[[ForgedTpm], list[ImaLine]]) -> ForgedTpm:
    """The machine as if its kernel had logged these lines from the start."""
    chosen = lines(tpm)
    tpm.lines = []
    for bank in tpm.pcrs:
        tpm.pcrs[bank][10] = bytes(len(tpm.pcrs[bank][10]))
    for line in chosen:
        tpm.log(line)
    return tpm


def _measured_after_quote(path: str | bytes, **options: object) -> Break:
    """A file is measured, the quote is of before, and the log shows it."""

    def make(tpm: ForgedTpm, binding: bytes) -> Bundle:
        part = _part(tpm.bundle(binding))
        tpm.measure(path, b"evil", **options)
        return Bundle((replace(part, ima_log=tpm.ima_log),))

    return make


def _lagging(tpm: ForgedTpm, binding: bytes) -> Bundle:
    part = _part(tpm.bundle(binding))
    for _ in range(MAX_LAG + 1):
        tpm.measure(_PATH, _CONTENT)
    return Bundle((replace(part, ima_log=tpm.ima_log),))


def _not_extended(tpm: ForgedTpm, binding: bytes) -> Bundle:
    tpm.pcrs["sha256"][10] = bytes(32)
    return tpm.bundle(binding)


IMA_FAULTS: tuple[Fault, ...] = (
    Fault("I1", "tail_cut", "pcr10_mismatch", _log(lambda lines: lines[:-1])),
    Fault("I2", "middle_dropped", "pcr10_mismatch", _log(lambda lines: [*lines[:1], *lines[2:]])),
    Fault("I3", "order_swapped", "pcr10_mismatch", _log(lambda lines: [lines[0], lines[2], lines[1], *lines[3:]])),
    Fault("I4", "line_doubled", "pcr10_mismatch", _log(lambda lines: [*lines[:2], *lines[1:]])),
    Fault("I4", "log_empty", "pcr10_mismatch", _log(lambda lines: [])),
    Fault("I5", "unlisted_executable", "not_in_policy", _after(lambda t: t.measure("/opt/evil", b"evil"))),
    Fault("I6", "listed_path_other_digest", "not_in_policy", _after(lambda t: t.measure(_PATH, b"evil"))),
    Fault("I7", "listed_digest_other_path", "not_in_policy", _after(lambda t: t.measure("/opt/copy", _CONTENT))),
    Fault("I8", "too_long_after_the_quote", "ima_lag", _lagging),
    Fault("I9", "pcr10_zero", "ima_not_extended", _not_extended),
    Fault("I10", "boot_aggregate_missing", "boot_aggregate", _without_first),
    Fault("I10", "boot_aggregate_last", "boot_aggregate", _aggregate_last),
    Fault("I10", "boot_aggregate_of_other_pcrs", "boot_aggregate", _wrong_aggregate),
    Fault(
        "I11",
        "second_boot_aggregate",
        "boot_aggregate",
        _after(lambda t: t.log(boot_aggregate(t.pcrs["sha256"]))),
    ),
    Fault("I12", "violation", "ima_violation", _after(lambda t: t.measure(_PATH, _CONTENT, violation=True))),
    Fault(
        "I13",
        "template_hash_differs",
        "ima_template_hash",
        _after(lambda t: t.measure(_PATH, _CONTENT, template_hash=b"\1" * 20)),
    ),
    Fault("I14", "sha1_file_digest", "weak_digest", _after(lambda t: t.measure("/bin/x", b"x", algorithm="sha1"))),
    Fault("I14", "md5_file_digest", "weak_digest", _after(lambda t: t.measure("/bin/x", b"x", algorithm="md5"))),
    Fault("I14", "template_ima", "weak_digest", _after(lambda t: t.measure(_PATH, _CONTENT, template="ima"))),
    Fault("I15", "unknown_template", "ima_template", _after(lambda t: t.measure(_PATH, _CONTENT, template="evil"))),
    Fault("I16", "newline_in_path", "not_in_policy", _after(lambda t: t.measure(f"{_PATH}\n10 x", _CONTENT))),
    Fault("I16", "nul_in_path", "non_canonical", _after(lambda t: t.measure(f"{_PATH}\0evil", _CONTENT))),
    Fault("I16", "invalid_utf8_path", "not_in_policy", _after(lambda t: t.measure(b"/bin/\xff\xfe", _CONTENT))),
    Fault("I16", "path_of_4097", "non_canonical", _after(lambda t: t.measure("/" + "a" * 4096, _CONTENT))),
    Fault("I25", "length_overflow", "non_canonical", _log(lambda lines: [lines[0][:24] + b"\xff" * 4 + lines[0][28:]])),
    Fault("I26", "sha256_of_20_bytes", "weak_digest", _after(lambda t: t.measure("/bin/x", b"", digest=bytes(20)))),
    Fault("I27", "line_for_pcr_11", "ima_pcr", _after(lambda t: t.measure(_PATH, _CONTENT, pcr=11))),
    Fault("I28", "evil_after_the_quote", "not_in_policy", _measured_after_quote("/opt/evil")),
    Fault("I28", "violation_after_the_quote", "ima_violation", _measured_after_quote(_PATH, violation=True)),
)

FAULTS = QUOTE_FAULTS + IMA_FAULTS


def broken(fault: Fault, tpm: ForgedTpm, binding: bytes) -> Bundle:
    """The evidence that this fault's attacker sends."""
    return fault.make(tpm, binding)
