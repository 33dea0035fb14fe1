"""What is fuzzed: every parser that reads what a machine, or whoever stands between, sends. A target takes bytes and may
raise `PerunError` alone; anything else, a second or 256 MiB, is a crash.

Each has seeds: what the forge makes, and the captured evidence where that folder is at hand (PERUNML_VECTORS).
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificate

from perunml.evidence.baseline import Allowed, Baseline
from perunml.evidence.bootlog.judge import judge_boot_log
from perunml.evidence.bootlog.rtmr import judge_rtmrs
from perunml.evidence.bundle import BANK_SIZES, Bundle
from perunml.evidence.clouds.azure import Hcl, check_ak, cloud_claims, parse_hcl
from perunml.evidence.dcap.collateral import read_collateral
from perunml.evidence.dcap.parse import parse_quote
from perunml.evidence.dcap.pck import read_pck_chain
from perunml.evidence.ima.appraise import appraise_log
from perunml.evidence.ima.forms import BINARY, read_log
from perunml.evidence.ima.parse import HASH_SIZE, parse_log
from perunml.evidence.ima.signature import key_in, verified_by
from perunml.evidence.nvidia.fields import gpu_fields, switch_fields
from perunml.evidence.nvidia.parse import parse_report
from perunml.evidence.nvidia.rim import read_rim
from perunml.evidence.offline.nvidia import NvidiaFiles, check_nvidia
from perunml.evidence.offline.snp import SnpFiles, check_snp
from perunml.evidence.pem import is_pem, split
from perunml.evidence.rules import BootRules
from perunml.evidence.snp.parse import parse_report as parse_snp_report
from perunml.evidence.snp.parse import read_tcb
from perunml.evidence.tpm.attest import parse_attest
from perunml.evidence.tpm.certificate import parse_certificate
from perunml.evidence.tpm.cloud import read_instance
from perunml.evidence.tpm.credential import make_credential
from perunml.evidence.tpm.crl import parse_crl
from perunml.evidence.tpm.public import parse_public
from perunml.evidence.tpm.signature import parse_signature
from perunml.evidence.x509 import read_certificate, read_crl, revocation
from perunml.testing.ccel import ccel
from perunml.testing.clouds import hcl_report, runtime_data, td_report
from perunml.testing.dcap import ForgedIntel
from perunml.testing.forge import EK_KINDS, ForgedTpm
from perunml.testing.nvidia import ForgedNvidia
from perunml.testing.snp import AmdCa, ForgedChip
from perunml.wire.canonical import canonical, load_json
from perunml.wire.errors import PerunError

VECTORS = Path(os.environ.get("PERUNML_VECTORS") or Path(__file__).resolve().parents[2] / "shared" / "vectors")
PCRS = {bank: {index: bytes(size) for index in range(24)} for bank, size in BANK_SIZES.items()}
BINDING = b"\x5a" * 48
AK_NAME = b"\0\x0b" + bytes(32)
LARGEST_SEED = 256 * 1024
"""Bytes: larger files only slow the mutator down."""


@dataclass(frozen=True, slots=True)
class Target:
    """`run` reads one input, `seeds` gives honest ones, `largest` bounds inputs in bytes."""

    run: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]
    largest: int = 8 * 1024


def _public(data: bytes) -> None:
    area = parse_public(data)
    assert len(area.name) in (34, 50, 66)
    area.key()


def _certificate(data: bytes) -> None:
    made = parse_certificate(data)
    made.key()
    read_instance(made)
    assert made.name
    assert parse_certificate(made.raw).raw == made.raw


def _credential(data: bytes) -> None:
    identity, secret = make_credential(data, AK_NAME, b"x" * 32)
    assert identity
    assert secret


def _ima(data: bytes) -> None:
    found = appraise_log(data, 0, PCRS, Allowed({}, {}))
    assert found.reasons


def _ima_forms(data: bytes) -> None:
    lines, form = read_log(data)
    assert all(len(line[1]) == HASH_SIZE for line in lines)
    if form == BINARY:
        assert parse_log(data) == (lines, 0)


def _ima_signature(data: bytes) -> None:
    key = _tpms()[0].ca.chain[0]
    assert key_in(data, frozenset()) is None
    made = load_pem_x509_certificate(key) if key.startswith(b"-----") else load_der_x509_certificate(key)
    public = made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert verified_by(data, b"sha256:\0" + bytes(32), {public: data[3:7]}) is None


def _boot(data: bytes) -> None:
    judge_boot_log(data, "ima_policy=tcb", PCRS, BootRules(secure_boot=True), {})


def _bundle(data: bytes) -> None:
    made = Bundle.from_json(load_json(data))
    assert Bundle.from_json(made.as_json()) == made


def _baseline(data: bytes) -> None:
    made = Baseline.from_json(load_json(data))
    assert Baseline.from_json(made.as_json()) == made


@cache
def _tpms() -> tuple[ForgedTpm, ...]:
    return tuple(ForgedTpm(ak=kind, banks=("sha256", "sha384")) for kind in ("p256", "p384", "rsa", "rsapss"))


def _files(*patterns: str) -> Iterator[bytes]:
    """Captured evidence; nothing where the folder is missing."""
    for pattern in patterns:
        for path in sorted(VECTORS.glob(pattern)):
            if path.is_file() and path.stat().st_size <= LARGEST_SEED:
                yield path.read_bytes()


def _attests() -> Iterator[bytes]:
    yield from (tpm.quote(BINDING).attest for tpm in _tpms())
    yield from _files("measured-vm/*/quote_*.msg")


def _signatures() -> Iterator[bytes]:
    yield from (tpm.quote(BINDING).signature for tpm in _tpms())
    yield from _files("measured-vm/*/quote_*.sig")


def _eks() -> Iterator[bytes]:
    yield from (ForgedTpm(ek=kind).ek_public for kind in EK_KINDS if kind != "rsa4096")
    yield from _files("measured-vm/*/ek_*.tpm2b_public")


def _publics() -> Iterator[bytes]:
    yield from (tpm.ak_public for tpm in _tpms())
    yield from _eks()
    yield from _files("measured-vm/*/ak_*.tpm2b_public")


def _certificates() -> Iterator[bytes]:
    ca = _tpms()[0].ca
    yield from (ca.root, *ca.chain, _tpms()[0].enrolment()["ek_certificate"])
    yield from _files("tpm-ek/*/*.der", "tpm-ek/*/*.crt", "tpm-ek/*/*.cer", "tpm-ek/*/*.pem", "measured-vm/*/*.crt.der")


def _crls() -> Iterator[bytes]:
    yield from (_tpms()[0].ca.revocations([1, 2**100]), _tpms()[0].ca.revocations(by_root=True))


def _imas() -> Iterator[bytes]:
    yield from (ForgedTpm(template=name).ima_log for name in ("ima-ng", "ima-sig", "ima-ngv2", "ima-sigv2"))
    yield from _files("measured-vm/*/ima.bin", "measured-vm/tampered/*/ima.bin")


def _ima_texts() -> Iterator[bytes]:
    yield from _imas()
    yield b"10 " + b"0" * 40 + b" ima-sig sha256:" + b"0" * 64 + b" /bin/x 0302\n"
    yield from _files("measured-vm/*/ima.ascii*", "measured-vm/*/ima.binary_runtime_measurements_*", "ima/*/*")


def _ima_signatures() -> Iterator[bytes]:
    yield b"\3\2\4key!\0\x40" + bytes(64)
    yield from _certificates()


def _boots() -> Iterator[bytes]:
    yield from _files("measured-vm/*/bios_measurements.bin", "tcg-eventlog/**/*", "tpm-quote/*/*.eventlog")


def _bundles() -> Iterator[bytes]:
    yield from (canonical(tpm.bundle(BINDING).as_json()) for tpm in _tpms())


def _baselines() -> Iterator[bytes]:
    yield from (canonical(tpm.baseline().as_json()) for tpm in _tpms())


def _gpu_report(data: bytes) -> None:
    fields = parse_report(data).fields
    for read in (gpu_fields, switch_fields):
        with suppress(PerunError):
            read(fields)


def _gpu_reports() -> Iterator[bytes]:
    vendor = ForgedNvidia()
    yield from (device.report(bytes(32)).report for device in (vendor.gpu(), vendor.switch()))
    for file in _files("nvidia/*/hopperAttestationReport.txt"):
        yield bytes.fromhex(file.decode("ascii"))


def _gpu_file(data: bytes) -> None:
    check_nvidia(NvidiaFiles([data], data, bytes(32)), now=1_800_000_000)


def _gpu_files() -> Iterator[bytes]:
    gpu = ForgedNvidia().gpu()
    yield b"".join(gpu.chain)
    yield gpu.report(bytes(32)).report
    yield from _files("nvidia/*/*_evidence.json", "nvidia/*/hopperCertChain.txt")


def _rims() -> Iterator[bytes]:
    yield from ForgedNvidia().rims()
    yield from _files("nvidia/*/*.swidtag")


def _dcap_quote(data: bytes) -> None:
    raw = parse_quote(data)
    assert parse_quote(raw.quote).signed == raw.signed
    read_pck_chain(raw.pck_chain)


def _dcap_quotes() -> Iterator[bytes]:
    intel = ForgedIntel()
    yield from (intel.sgx_quote(), intel.tdx_quote(), intel.tdx_quote(version=5))
    yield from _files("tdx/*/tdx_quote", "tdx/*/*.dat", "sgx/*/*.bin")


def _dcap_collaterals() -> Iterator[bytes]:
    intel = ForgedIntel()
    yield from (intel.collateral("sgx"), intel.collateral("tdx"))
    yield from _files("tdx/*/*_collateral.json", "sgx/*/*_collateral.json")


def _ccel(data: bytes) -> None:
    found = judge_rtmrs(data, "ima_policy=tcb", (b"\1" * 48,) * 4, BootRules(), exact=frozenset(), open_=frozenset())
    assert all(found.reasons[index] for index in range(4))


def _ccels() -> Iterator[bytes]:
    yield ccel()[0]
    yield from _files("ccel/*/*.bin")


def _hcl(data: bytes) -> None:
    """The blob; and the same bytes as runtime data, which the fuzzer would not get to through the sizes."""
    for read in (lambda: parse_hcl(data), lambda: Hcl("snp", b"", data, "sha256")):
        with suppress(PerunError):
            made = read()
            assert len(made.report_data) == 64
            cloud_claims(made)
            check_ak(made, 0, 0)


def _hcls() -> Iterator[bytes]:
    runtime = runtime_data(1 << 2047 | 1)
    yield runtime
    yield hcl_report(lambda told: told, runtime)
    yield hcl_report(td_report, runtime, kind=4, hash_kind=3, data_version=2)
    for file in _files("snp/*/attestation.json"):
        yield base64.b64decode(json.loads(file)["report"]["snpCvm"]["evidence"]["hclReport"])


def _snp_report(data: bytes) -> None:
    raw = parse_snp_report(data)
    assert len(raw.signed) + 512 == len(data)
    read_tcb(raw.launch_tcb, raw.product)


def _snp_reports() -> Iterator[bytes]:
    for product in ("Milan", "Genoa", "Turin"):
        yield from (ForgedChip(AmdCa(product)).report(version=version) for version in (2, 3, 5))
    yield from _files("snp/*/attestation.bin")


def _snp_certificates(data: bytes) -> None:
    made = check_snp(SnpFiles(_snp_chip().report(), split(data) if is_pem(data) else [data]), now=1_800_000_000)
    assert made.reasons


@cache
def _snp_chip() -> ForgedChip:
    return ForgedChip()


def _snp_certificate_seeds() -> Iterator[bytes]:
    yield from _snp_chip().chain
    yield from _files("snp/*/*.der", "snp/*/*.testcer", "snp/*/*.pem", "snp/*/cert_chain_*")


def _vendor_crl(data: bytes) -> None:
    made = read_crl(data)
    root = read_certificate(_snp_chip().ca.root)
    revocation(root, root, [made], 1_800_000_000)


def _vendor_crls() -> Iterator[bytes]:
    ca = _snp_chip().ca
    yield from (ca.revocations(), ca.revocations([ca.middle], number=2**63), ca.revocations(by_middle=True))


TARGETS: dict[str, Target] = {
    "attest": Target(parse_attest, _attests),
    "public": Target(_public, _publics),
    "signature": Target(parse_signature, _signatures),
    "certificate": Target(_certificate, _certificates, 20 * 1024),
    "crl": Target(parse_crl, _crls, 64 * 1024),
    "credential": Target(_credential, _eks),
    "ima": Target(_ima, _imas, 128 * 1024),
    "ima-forms": Target(_ima_forms, _ima_texts, 128 * 1024),
    "ima-signature": Target(_ima_signature, _ima_signatures),
    "bootlog": Target(_boot, _boots, 128 * 1024),
    "dcap-quote": Target(_dcap_quote, _dcap_quotes, 16 * 1024),
    "dcap-collateral": Target(read_collateral, _dcap_collaterals, 64 * 1024),
    "ccel": Target(_ccel, _ccels, 128 * 1024),
    "hcl": Target(_hcl, _hcls),
    "snp-report": Target(_snp_report, _snp_reports),
    "snp-certificates": Target(_snp_certificates, _snp_certificate_seeds, 16 * 1024),
    "vendor-crl": Target(_vendor_crl, _vendor_crls, 64 * 1024),
    "gpu-report": Target(_gpu_report, _gpu_reports, 32 * 1024),
    "gpu-file": Target(_gpu_file, _gpu_files, 64 * 1024),
    "rim": Target(read_rim, _rims, 64 * 1024),
    "bundle": Target(_bundle, _bundles, 64 * 1024),
    "baseline": Target(_baseline, _baselines, 64 * 1024),
}


def run_one(name: str, data: bytes) -> None:
    """One input: refused with a code, or read."""
    try:
        TARGETS[name].run(data)
    except PerunError as exc:
        if not exc.code:
            raise
