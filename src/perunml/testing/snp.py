"""Makes valid AMD SEV-SNP evidence under a development root, every field settable, so that each check can be broken alone.

A verifier believes it only where the root is given by name (`Endorsements.simulated_roots`).
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.snp.keys import CLOUD_OID, HARDWARE_OID, PART_OIDS, PRODUCT_OID, STRUCTURE_OID, STRUCTURES
from perunml.evidence.snp.parse import SIGNED, SIZE, Tcb

START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
END = dt.datetime(2099, 12, 31, tzinfo=dt.UTC)
CPUS = {"Milan": (0x19, 0x01, 1), "Genoa": (0x19, 0x11, 1), "Turin": (0x1A, 0x02, 1)}
"""Family, model and stepping that reports of versions 3 and 5 tell."""
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@cache
def rsa_key(number: int) -> rsa.RSAPrivateKey:
    """An RSA-4096 key, as AMD's authorities have; made once, for it takes seconds."""
    return rsa.generate_private_key(65537, 4096)


@dataclass
class AmdCa:
    """A development ARK and what it certifies: ASK (VCEKs) or ASVK (VLEKs).

    with_rsa  keys as AMD's own; else P-384, which is quick
    swapped   the two authorities' names are exchanged
    """

    product: str = "Milan"
    vlek: bool = False
    with_rsa: bool = False
    swapped: bool = False
    middle_until: dt.datetime = END
    root_key: Key = field(init=False)
    middle_key: Key = field(init=False)
    root: bytes = field(init=False)
    middle: bytes = field(init=False)

    def __post_init__(self) -> None:
        new = (lambda n: rsa_key(n)) if self.with_rsa else (lambda n: ec.generate_private_key(ec.SECP384R1()))
        self.root_key, self.middle_key = new(0), new(1)
        names = [f"ARK-{self.product}", f"SEV-VLEK-{self.product}" if self.vlek else f"SEV-{self.product}"]
        root, middle = reversed(names) if self.swapped else names
        self.root = _authority(root, root, self.root_key, self.root_key, END)
        self.middle = _authority(middle, root, self.middle_key, self.root_key, self.middle_until)

    def certify(
        self,
        key: ec.EllipticCurvePublicKey,
        tcb: Tcb,
        chip_id: bytes,
        *,
        product: str = "",
        until: dt.datetime = END,
        name: str = "",
        cloud: str = "Development Cloud",
        structure: int | None = None,
        more: Mapping[str, bytes] | None = None,
    ) -> bytes:
        """A VCEK's certificate (or a VLEK's) in DER; `more` are values of extensions by their OID, in place of the usual."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name or ("SEV-VLEK" if self.vlek else "SEV-VCEK")))
            .issuer_name(x509.load_der_x509_certificate(self.middle).subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(START)
            .not_valid_after(until)
        )
        told = {PRODUCT_OID: _ia5((product or self.product) + ("" if self.product == "Turin" else "-B0"))}
        told |= {CLOUD_OID: _ia5(cloud)} if self.vlek else {HARDWARE_OID: chip_id}
        told |= {STRUCTURE_OID: _integer(STRUCTURES.get(self.product, 0) if structure is None else structure)}
        told |= {PART_OIDS[name]: _integer(value) for name, value in tcb.as_json().items()}
        told |= dict(more or {})
        for oid, value in told.items():
            builder = builder.add_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False
            )
        return _sign(builder, self.middle_key)

    def revocations(
        self,
        certificates: Sequence[bytes] = (),
        *,
        by_middle: bool = False,
        since: dt.datetime = START,
        until: dt.datetime = END,
        forged: bool = False,
        number: int | None = None,
        more: Sequence[x509.ExtensionType] = (),
    ) -> bytes:
        """A revocation list in DER of the ARK's, or of the ASK's; `forged` by another key."""
        issuer, key = (self.middle, self.middle_key) if by_middle else (self.root, self.root_key)
        builder = x509.CertificateRevocationListBuilder().issuer_name(x509.load_der_x509_certificate(issuer).subject)
        builder = builder.last_update(since).next_update(until)
        for extension in (*([] if number is None else [x509.CRLNumber(number)]), *more):
            builder = builder.add_extension(extension, critical=False)
        for certificate in certificates:
            serial = x509.load_der_x509_certificate(certificate).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()
            builder = builder.add_revoked_certificate(entry)
        signer: Key = ec.generate_private_key(ec.SECP384R1()) if forged else key
        return _sign(builder, signer)


@dataclass(frozen=True)
class Report:
    """The fields of a report; `tcb` is the reported one, and the others' unless they are said. The rest is as the ABI names it."""

    version: int = 3
    product: str = "Milan"
    guest_svn: int = 0
    policy: int = 1 << 17
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    vmpl: int = 0
    algorithm: int = 1
    platform_info: int = 0
    key_info: int = 0
    report_data: bytes = bytes(64)
    measurement: bytes = b"\x11" * 48
    host_data: bytes = bytes(32)
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    report_id: bytes = b"\x77" * 32
    tcb: Tcb = field(default_factory=lambda: Tcb(4, 0, 24, 219))
    committed: Tcb | None = None
    launch: Tcb | None = None
    chip_id: bytes = b"\xc1" * 64
    mitigations: int = 0
    cpu: tuple[int, int, int] | None = None

    def unsigned(self) -> bytes:
        """The bytes that are signed."""
        cpu = self.cpu or (CPUS[self.product] if self.version > 2 else (0, 0, 0))
        tcb, committed, launch = (
            pack_tcb(each or self.tcb, self.product) for each in (None, self.committed, self.launch)
        )
        made = struct.pack(
            "<IIQ16s16sII",
            self.version,
            self.guest_svn,
            self.policy,
            self.family_id,
            self.image_id,
            self.vmpl,
            self.algorithm,
        )
        made += tcb + struct.pack("<QII", self.platform_info, self.key_info, 0)
        made += self.report_data + self.measurement + self.host_data + self.id_key_digest + self.author_key_digest
        made += self.report_id + b"\xff" * 32 + tcb + bytes(cpu) + bytes(21) + self.chip_id + committed
        made += bytes((1, 55, 1, 0, 1, 55, 1, 0)) + launch + struct.pack("<QQ", self.mitigations, self.mitigations)
        return made + bytes(SIGNED - len(made))


def pack_tcb(tcb: Tcb, product: str) -> bytes:
    """A TCB_VERSION in the product line's layout."""
    if product == "Turin":
        return bytes((max(tcb.fmc, 0), tcb.bootloader, tcb.tee, tcb.snp, 0, 0, 0, tcb.microcode))
    return bytes((tcb.bootloader, tcb.tee, 0, 0, 0, 0, tcb.snp, tcb.microcode))


class ForgedChip:
    """A chip with its key and certificate: signs reports."""

    def __init__(self, ca: AmdCa | None = None, tcb: Tcb | None = None, chip_id: bytes = b"\xc1" * 64) -> None:
        self.ca = ca or AmdCa()
        turin = self.ca.product == "Turin"
        self.tcb = tcb or Tcb(4, 0, 24, 219, 1 if turin else -1)
        self.chip_id = bytes(8 * [0xC1]) + bytes(56) if turin and chip_id == b"\xc1" * 64 else chip_id
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.certificate = self.ca.certify(self.key.public_key(), self.tcb, self.chip_id[:8] if turin else self.chip_id)

    @property
    def chain(self) -> tuple[bytes, ...]:
        """Its certificate, and the two above it."""
        return (self.certificate, self.ca.middle, self.ca.root)

    def fields(self, **told: object) -> Report:
        """A report's fields of this chip."""
        own = Report(
            product=self.ca.product, tcb=self.tcb, chip_id=bytes(64) if self.ca.vlek else self.chip_id,
            key_info=1 << 2 if self.ca.vlek else 0,
        )  # fmt: skip
        return replace(own, **told)  # type: ignore[arg-type]  # a field's name and value, as the caller says

    def report(self, report_data: bytes = bytes(64), **told: object) -> bytes:
        """A signed report over 64 bytes."""
        return self.sign(self.fields(report_data=report_data, **told).unsigned())

    def sign(self, unsigned: bytes) -> bytes:
        """What is signed, and the signature in AMD's form."""
        r, s = decode_dss_signature(self.key.sign(unsigned, ec.ECDSA(hashes.SHA384())))
        return unsigned + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(SIZE - SIGNED - 144)

    def endorsements(self, *, crls: Sequence[bytes] | None = None, trusted: bool = True) -> Endorsements:
        """What judges it: its chain, a revocation list in force, and its root by name unless it is not `trusted`."""
        lists = tuple(crls) if crls is not None else (self.ca.revocations(),)
        return Endorsements(Collateral(certificates=self.chain, crls=lists), (self.ca.root,) if trusted else ())


def _authority(name: str, issuer: str, key: Key, signer: Key, until: dt.datetime) -> bytes:
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only"), False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), critical=True)
    )
    return _sign(builder, signer)


def _sign(builder: x509.CertificateBuilder | x509.CertificateRevocationListBuilder, key: Key) -> bytes:
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), 48) if isinstance(key, rsa.RSAPrivateKey) else None
    return builder.sign(key, hashes.SHA384(), rsa_padding=pss).public_bytes(Encoding.DER)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _ia5(text: str) -> bytes:
    return bytes((0x16, len(text))) + text.encode()


def _integer(value: int) -> bytes:
    return bytes((2, 1, value)) if value < 128 else bytes((2, 2, 0, value))
