"""The forge of NVIDIA's evidence: valid reports, manifests and OCSP answers of a node of GPUs and switches, every field settable,
so that each check can be broken alone. All of it leads to development roots.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.nvidia import fields as opaque
from perunml.evidence.nvidia.dice import COMPOSITE_DEVICE_ID, DEVICE_NAME, DICE_TCB_INFO, SHA384
from perunml.evidence.parts import GpuPart
from perunml.testing.nvidia_pki import NOW, Holder, answer, certify
from perunml.testing.nvidia_rim import manifest, sign

DRIVER, VBIOS, SWITCH_VBIOS = "550.90.07", "96.00.9F.00.01", "96.10.73.00.01"
FWID = hashlib.sha384(b"development firmware").digest()
SPECIFIC = range(8, 16)
"""Measurements (from 0) that the driver's manifest names; the firmware's names the first eight, and `NVDEC0_INDEX`."""
BLOCKS = 40


def measurement(index: int) -> bytes:
    """What an honest device measures at `index`, from 0."""
    return hashlib.sha384(b"development measurement %d" % index).digest()


@dataclass(slots=True)
class ForgedDevice:
    """One GPU or switch. What is set before `report` is called is in the report; what is set at making is in its certificates.

    fields        opaque fields by type; None leaves one out
    measurements  index from 0 -> digest
    """

    device: str
    leaf: Holder
    pdi: bytes
    fields: dict[int, bytes | None]
    measurements: dict[int, bytes]

    @property
    def chain(self) -> tuple[bytes, ...]:
        return tuple(holder.der for holder in self.leaf.chain())

    def report(self, nonce: bytes, **changed: Any) -> GpuPart:
        """The exchange for `nonce`; `changed` is given to `exchange`."""
        return GpuPart(
            self.device, exchange(nonce, self.measurements, self.fields, self.leaf.key, **changed), self.chain
        )


def exchange(
    nonce: bytes,
    measurements: Mapping[int, bytes],
    fields: Mapping[int, bytes | None],
    key: ec.EllipticCurvePrivateKey,
    *,
    request: bytes = b"\x11\xe0\x01\xff",
    slot: bytes = b"\0",
    response: bytes = b"\x11\x60\0\0",
    blocks: bytes | None = None,
    record: bytes | None = None,
    extra: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """An SPDM request and its signed response. `blocks`: the count as told; `record` in place of the measurements; `extra` behind
    the opaque fields; `after` behind the signature."""
    made = b"".join(block(index + 1, value) for index, value in sorted(measurements.items()))
    record = made if record is None else record
    data = b"".join(field_(kind, value) for kind, value in fields.items() if value is not None) + extra
    signed = request + nonce + slot + response
    signed += (bytes((len(measurements),)) if blocks is None else blocks) + len(record).to_bytes(3, "little") + record
    signed += hashlib.sha256(nonce).digest() + len(data).to_bytes(2, "little") + data
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA384())))
    return signed + r.to_bytes(48) + s.to_bytes(48) + after


def block(index: int, value: bytes, *, specification: int = 1, kind: int = 1) -> bytes:
    """One measurement block, `index` from 1."""
    inner = bytes((kind,)) + len(value).to_bytes(2, "little") + value
    return bytes((index, specification)) + len(inner).to_bytes(2, "little") + inner


def field_(kind: int, value: bytes) -> bytes:
    """One opaque field."""
    return kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value


@dataclass(slots=True)
class ForgedNvidia:
    """A vendor: authorities for devices and manifests. `gpu` and `switch` make devices, `endorsements` what they are judged by."""

    root: Holder = field(default_factory=lambda: certify("Device Identity CA (development)", None))
    rim_root: Holder = field(default_factory=lambda: certify("Manifest Root CA (development)", None))
    line: Holder = field(init=False)
    provisioner: Holder = field(init=False)
    rim_signer: Holder = field(init=False)

    def __post_init__(self) -> None:
        self.line = certify("Product Identity (development)", self.root)
        self.provisioner = certify("Provisioner (development)", self.line)
        self.rim_signer = certify("Manifest signer (development)", certify("Manifest CA", self.rim_root), ca=False)

    def gpu(
        self,
        number: int = 0,
        *,
        switches: Sequence[bytes] = (),
        product: str = "GH100",
        dice: bytes | None = None,
        fwid: bytes = FWID,
        provisioner: Holder | None = None,
        leaf: Mapping[str, Any] | None = None,
    ) -> ForgedDevice:
        """A GPU that is wired to `switches` (their PDIs). `dice`: flags (4 bytes) of the newer form of certificate; `leaf`: more
        for `certify`."""
        pdi = hashlib.sha256(b"gpu %d" % number).digest()[:8]
        made = self._leaf(pdi, product, dice, fwid, provisioner or self.provisioner, leaf or {})
        told: dict[int, bytes | None] = {
            opaque.VBIOS_VERSION: bytes.fromhex("009f0096 01000000"),
            opaque.CHIP_SKU: b"882\0\0",
            opaque.PROJECT: b"1010\0",
            opaque.PROJECT_SKU: b"0200\0",
            opaque.DRIVER_VERSION: DRIVER.encode() + b"\0",
            opaque.NVDEC0_STATUS: opaque.OFF,
            opaque.FWID: fwid,
            opaque.PROTECTED_PCIE: opaque.ON if switches else opaque.OFF,
            opaque.SWITCH_PDI: b"".join(one[::-1] for one in switches) or None,
            opaque.DATA_VERSION: b"\x01\0",
            opaque.FEATURE_FLAG: b"\x02\0" if switches else b"\0\0",
        }
        return ForgedDevice("gpu", made, pdi, told, {index: measurement(index) for index in range(BLOCKS)})

    def switch(self, number: int = 0, *, gpus: Sequence[bytes] = (), product: str = "LS_10") -> ForgedDevice:
        """An NVSwitch that is wired to `gpus` (their PDIs), eight at most."""
        pdi = switch_pdi(number)
        made = self._leaf(pdi, product, None, FWID, self.provisioner, {})
        told: dict[int, bytes | None] = {
            opaque.VBIOS_VERSION: SWITCH_VBIOS.encode(),
            opaque.SWITCH_PDI: pdi,
            opaque.SWITCH_GPUS: b"".join(gpus).ljust(64, b"\0") + bytes(64),
            opaque.SWITCH_LOCK: b"\x01\0",
        }
        return ForgedDevice("switch", made, pdi, told, {index: measurement(index) for index in range(BLOCKS)})

    def node(self, gpus: int = 2, switches: int = 1) -> list[ForgedDevice]:
        """GPUs and switches that are wired to one another, the GPUs first."""
        wired = [switch_pdi(number) for number in range(switches)]
        cards = [self.gpu(number, switches=wired) for number in range(gpus)]
        pdis = [card.pdi for card in cards]
        return [*cards, *(self.switch(number, gpus=pdis) for number in range(switches))]

    def rims(self) -> tuple[bytes, ...]:
        """Manifests of the default driver, the default firmware and the switches' firmware, signed."""
        return (self.driver_rim(), self.vbios_rim(), self.switch_rim())

    def driver_rim(self, version: str = DRIVER, signer: Holder | None = None, **more: Any) -> bytes:
        """Of a driver; `more` for `sign`."""
        golden = {index: [bytes(48), measurement(index)] for index in SPECIFIC}
        return sign(manifest(version, golden), signer or self.rim_signer, **more)

    def vbios_rim(self, version: str = VBIOS, signer: Holder | None = None, **more: Any) -> bytes:
        """Of a GPU's firmware; it names a value of the video decoder that no device shows."""
        golden = {index: [measurement(index)] for index in range(8)} | {opaque.NVDEC0_INDEX: [bytes(48)]}
        return sign(manifest(version, golden), signer or self.rim_signer, **more)

    def switch_rim(self, version: str = SWITCH_VBIOS) -> bytes:
        """Of a switch's firmware."""
        golden = {index: [measurement(index)] for index in range(8)}
        return sign(manifest(version, golden, product="LS10", edition="SWITCH"), self.rim_signer)

    def subjects(self, devices: Sequence[ForgedDevice] = ()) -> list[Holder]:
        """Every certificate that OCSP is asked about: between leaf and root of devices, signers of manifests up to their root."""
        shared = [self.provisioner, self.line, *self.rim_signer.chain()[:-1]]
        identities = [one.leaf.issuer for one in devices if one.leaf.issuer is not None]
        return [*identities, *shared]

    def endorsements(
        self,
        devices: Sequence[ForgedDevice] = (),
        *,
        rims: Sequence[bytes] | None = None,
        ocsp: Sequence[bytes] | None = None,
        **changed: Any,
    ) -> Endorsements:
        """Everything that `devices` are judged by, in force at `NOW`; `changed` is given to every OCSP answer."""
        answers = [answer(one, **changed) for one in self.subjects(devices)] if ocsp is None else ocsp
        listed = self.rims() if rims is None else tuple(rims)
        collateral = Collateral(made=NOW, rims=listed, ocsp=tuple(answers))
        return Endorsements(collateral, simulated_roots=(self.root.der, self.rim_root.der))

    def _leaf(
        self,
        pdi: bytes,
        product: str,
        dice: bytes | None,
        fwid: bytes,
        provisioner: Holder,
        more: Mapping[str, Any],
    ) -> Holder:
        identity = certify(f"{product} BROM", provisioner, serial_number=f"41{pdi.hex().upper()}")
        name = f"NVIDIA:{product}:{pdi.hex().upper()}".encode()
        other = x509.OtherName(DEVICE_NAME, bytes((0x0C, len(name))) + name)
        firmware = composite(identity, fwid) if dice is None else tcb_info(fwid, dice)
        extensions = [x509.SubjectAlternativeName([other]), firmware]
        return certify(f"{product} FMC", identity, **{"ca": False, "extensions": extensions, **more})


def switch_pdi(number: int) -> bytes:
    """The permanent identifier of a forged switch."""
    return hashlib.sha256(b"switch %d" % number).digest()[:8]


def composite(identity: Holder, fwid: bytes) -> x509.UnrecognizedExtension:
    """The older DICE extension: version, the issuer's key, the firmware's digest."""
    key = identity.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return x509.UnrecognizedExtension(COMPOSITE_DEVICE_ID, element(0x30, b"\x02\x01\x01" + key + _fwid(fwid)))


def tcb_info(fwid: bytes, flags: bytes) -> x509.UnrecognizedExtension:
    """The newer DICE extension: vendor, model, firmware's digest, flags."""
    body = element(0x80, b"NVIDIA") + element(0x81, b"GB100") + element(0xA6, _fwid(fwid) + _fwid(bytes(48)))
    return x509.UnrecognizedExtension(DICE_TCB_INFO, element(0x30, body + element(0x87, b"\0" + flags)))


def element(tag: int, content: bytes) -> bytes:
    """DER with the shortest length."""
    size = len(content)
    length = bytes((size,)) if size < 0x80 else bytes((0x81, size)) if size < 0x100 else b"\x82" + size.to_bytes(2)
    return bytes((tag,)) + length + content


def _fwid(digest: bytes) -> bytes:
    return element(0x30, SHA384 + element(0x04, digest))
