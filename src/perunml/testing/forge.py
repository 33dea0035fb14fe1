"""A forged TPM: valid evidence without any TPM, made with keys of our own under a development CA, in well under a
millisecond for ECC. Tests, demo and benches only; `testing.faults` breaks what it makes, one fault at a time."""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from perunml.evidence.baseline import Baseline
from perunml.evidence.binding import tpm_extra_data
from perunml.evidence.bootlog.parse import EV_NO_ACTION
from perunml.evidence.bundle import BANK_SIZES, Bundle, TpmPart
from perunml.evidence.policy import Machine
from perunml.evidence.tpm.algorithms import CRYPTOGRAPHY, CURVE_WIDTHS, ECDSA, HASH_IDS, RSAPSS, RSASSA
from perunml.evidence.tpm.attest import ST_ATTEST_QUOTE, TPM_GENERATED
from perunml.evidence.tpm.credential import kdfa, kdfe
from perunml.evidence.tpm.keys import USER_WITH_AUTH, check_ak, qualified_names
from perunml.evidence.tpm.public import parse_public
from perunml.evidence.tpm.template import POLICY_B, ek_machine
from perunml.testing.bootlog import Boot, MadeLog, boot, boot_rules
from perunml.testing.ca import DevelopmentCa
from perunml.testing.imalog import ImaLine, boot_aggregate, ima_line
from perunml.testing.structures import (
    AK_ATTRIBUTES,
    EK_ATTRIBUTES,
    EK_POLICY,
    Private,
    attest,
    curve_of,
    public_area,
    selection,
    sized,
)

QUOTED = tuple(range(15))
"""PCRs that a forged quote selects, as the attester's does."""
FILES = {"/usr/bin/python3": b"an interpreter", "/usr/lib/libc.so.6": b"a library", "/opt/a path/run me": b"a script"}
"""What a forged machine has loaded after boot: path -> content."""
_CURVES: dict[str, type[ec.EllipticCurve]] = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}
_HIGH = EK_ATTRIBUTES | USER_WITH_AUTH
EK_KINDS: dict[str, tuple[str, str, int, int, bytes]] = {
    # the EK's name: (key, name hash, AES bits, attributes, policy), as the TCG's templates have them
    "rsa": ("rsa", "sha256", 128, EK_ATTRIBUTES, EK_POLICY),
    "p256": ("p256", "sha256", 128, EK_ATTRIBUTES, EK_POLICY),
    "rsa-high": ("rsa", "sha256", 128, _HIGH, POLICY_B["sha256"]),
    "p256-high": ("p256", "sha256", 128, _HIGH, POLICY_B["sha256"]),
    "p384": ("p384", "sha384", 256, _HIGH, POLICY_B["sha384"]),
    "p521": ("p521", "sha512", 256, _HIGH, POLICY_B["sha512"]),
    "rsa3072": ("rsa3072", "sha384", 256, _HIGH, POLICY_B["sha384"]),
    "rsa4096": ("rsa4096", "sha384", 256, _HIGH, POLICY_B["sha384"]),
}


@dataclass(slots=True)
class Quoting:
    """What goes into a forged quote; a fault changes one thing of it. None means what is right."""

    magic: int = TPM_GENERATED
    kind: int = ST_ATTEST_QUOTE
    extra_data: bytes | None = None
    signer: bytes | None = None
    banks: Sequence[tuple[str, Sequence[int]]] | None = None
    selected: bytes | None = None
    values: Mapping[str, Mapping[int, bytes]] | None = None
    pcr_digest: bytes | None = None
    clock: tuple[int, int, int, int] | None = None
    firmware: int | None = None
    trailing: bytes = b""
    key: Private | None = None
    hash: str = ""
    scheme: int = 0
    log: bytes | None = None
    offset: int = 0
    event_log: bytes | None = None
    cmdline: str | None = None


class ForgedTpm:
    """A machine with a TPM, as far as its evidence shows. It is an `attesters.base.Attester` too.

    ak      ``p256``, ``p384``, ``rsa`` (RSASSA) or ``rsapss``
    ek      one of `EK_KINDS`
    banks   PCR banks allocated and quoted
    boots   what it boots, and tells in its boot log
    """

    def __init__(
        self,
        *,
        ak: str = "p256",
        ek: str = "p256",
        banks: Sequence[str] = ("sha256",),
        hash: str = "",
        template: str = "ima-ng",
        files: Mapping[str, bytes] = FILES,
        ca: DevelopmentCa | None = None,
        attributes: int = AK_ATTRIBUTES,
        boots: Boot | None = None,
    ) -> None:
        self.ca = ca or default_ca()
        self.boots = boots or Boot()
        self.banks = tuple(banks)
        self.template = template
        self._files = dict(files)
        self._hash = hash or ("sha384" if ak == "p384" else "sha256")
        self._scheme = {"rsa": RSASSA, "rsapss": RSAPSS}.get(ak, ECDSA)
        self._ak = new_key(ak)
        key, self._ek_hash, self._ek_aes, ek_attributes, ek_policy = EK_KINDS[ek]
        self._ek = new_key(key)
        self.ak_public = sized(
            public_area(self._ak, attributes=attributes, scheme=(self._scheme, self._hash), name_hash="sha256")
        )
        self.ek_public = sized(
            public_area(
                self._ek,
                attributes=ek_attributes,
                policy=ek_policy,
                storage=True,
                aes=self._ek_aes,
                name_hash=self._ek_hash,
            )
        )
        self.machine = ek_machine(parse_public(self.ek_public))
        self.firmware = 0x2020_0101_0000_0000
        self.reset, self.restart, self.clock = 1, 0, 10_000
        self._accepted = 0
        self._boot(boot(self.boots, self.banks, locality=0))

    # the machine

    def _boot(self, log: MadeLog) -> None:
        self.boot_log = log
        self.pcrs: dict[str, list[bytes]] = {bank: [bytes(BANK_SIZES[bank])] * 24 for bank in self.banks}
        self.lines: list[ImaLine] = []
        self._accepted = 0
        for event in log.events:
            if event.type != EV_NO_ACTION:
                self.extend_digests(event.index, event.digests)
        first = next((bank for bank in self.banks if bank != "sha1"), "sha1")
        self.log(boot_aggregate(self.pcrs[first], first, template=self.template))
        for path, content in self._files.items():
            self.measure(path, content)

    def reboot(self) -> None:
        """One more reset: PCRs and log begin anew, and the clock goes on."""
        self.boot_into(lambda log: None)

    def boot_into(self, change: Callable[[MadeLog], object]) -> None:
        """A reset into another state: `change` is made to the log of what it boots, before it is measured."""
        log = boot(self.boots, self.banks, locality=0)
        change(log)
        self.reset, self.restart, self.clock = self.reset + 1, 0, self.clock + 1000
        self._boot(log)

    def extend(self, index: int, data: bytes) -> None:
        """Extend a PCR in every bank by the bank's hash of `data`, outside of any log."""
        self.extend_digests(index, {bank: hashlib.new(bank, data).digest() for bank in self.pcrs})

    def extend_digests(self, index: int, digests: Mapping[str, bytes]) -> None:
        for bank, values in self.pcrs.items():
            values[index] = hashlib.new(bank, values[index] + digests[bank]).digest()

    def measure(self, path: str | bytes, content: bytes, **options: Any) -> None:
        """One more line in the IMA log, as if the file had been loaded; `options` as of `imalog.ima_line`."""
        raw = path if isinstance(path, bytes) else path.encode()
        algorithm = options.pop("algorithm", "sha256")
        digest = options.pop("digest", None) or hashlib.new(algorithm, content).digest()
        self.log(ima_line(raw, digest, algorithm=algorithm, **{"template": self.template, **options}))

    def log(self, line: ImaLine) -> None:
        """The kernel's part: the line goes into the log, its hash into PCR 10 of every bank."""
        self.lines.append(line)
        for bank, values in self.pcrs.items():
            values[10] = hashlib.new(bank, values[10] + line.extend_value(bank)).digest()

    @property
    def ima_log(self) -> bytes:
        return b"".join(line.encoded for line in self.lines)

    def baseline(self) -> Baseline:
        """The state in which it booted, as the parties would agree on it."""
        strong = [bank for bank in self.banks if bank != "sha1"]
        return Baseline(
            {bank: dict(enumerate(self.pcrs[bank][:10])) for bank in strong},
            {
                path: frozenset(["sha256:" + hashlib.sha256(content).hexdigest()])
                for path, content in self._files.items()
            },
        )

    def boot_baseline(self, **changes: Any) -> Baseline:
        """The same state, with PCRs 0 to 2 by their values and the rest by what the boot log tells; `changes` are other
        members of `BootRules`."""
        exact = self.baseline()
        pcrs = {bank: {i: value for i, value in values.items() if i < 3} for bank, values in exact.pcrs.items()}
        return replace(exact, pcrs=pcrs, boot=replace(boot_rules(self.boots, next(iter(pcrs))), **changes))

    def enrolled(self, last_clock: tuple[int, int, int] | None = None, *, simulated: bool = True) -> Machine:
        """What a manager would have recorded at enrolment."""
        return Machine(self.machine, simulated, self.ak_public, "", last_clock, self.ek_public)

    # what it can be asked for

    def enrolment(self) -> dict[str, Any]:
        """ek_certificate, ek_chain, ek_public, ak_public."""
        return {
            "ek_certificate": self.ca.certify(self._ek.public_key()),
            "ek_chain": self.ca.chain,
            "ek_public": self.ek_public,
            "ak_public": self.ak_public,
        }

    def activate(self, credential: bytes, encrypted_secret: bytes) -> bytes:
        """TPM2_ActivateCredential. Raises `ValueError` when the credential is not for this EK and this key."""
        seed, hash_name = self._open_seed(encrypted_secret[2:]), self._ek_hash
        name, size = check_ak(self.ak_public).name, BANK_SIZES[self._ek_hash]
        mac, identity = credential[4 : 4 + size], credential[4 + size :]
        mac_key = kdfa(hash_name, seed, b"INTEGRITY", b"", b"", size * 8)
        if not hmac.compare_digest(mac, hmac.new(mac_key, identity + name, hash_name).digest()):
            raise ValueError("TPM_RC_INTEGRITY")
        key = kdfa(hash_name, seed, b"STORAGE", name, b"", self._ek_aes)
        decryptor = Cipher(algorithms.AES(key), CFB(bytes(16))).decryptor()
        return (decryptor.update(identity) + decryptor.finalize())[2:]

    def _open_seed(self, encrypted: bytes) -> bytes:
        if isinstance(self._ek, rsa.RSAPrivateKey):
            algorithm = CRYPTOGRAPHY[self._ek_hash]
            return self._ek.decrypt(encrypted, padding.OAEP(padding.MGF1(algorithm), algorithm, b"IDENTITY\0"))
        width = CURVE_WIDTHS[curve_of(self._ek)]
        x, y = encrypted[2 : 2 + width], encrypted[4 + width :]
        point = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), self._ek.curve).public_key()
        own = self._ek.public_key().public_numbers().x.to_bytes(width)
        return kdfe(self._ek_hash, self._ek.exchange(ec.ECDH(), point), b"IDENTITY", x, own)

    def collect(self, binding: bytes) -> Bundle:
        """As an attester: the whole log, or what is new since the last accepted bundle."""
        return self.bundle(binding, Quoting(offset=self._accepted))

    def collect_many(self, bindings: Sequence[bytes]) -> dict[bytes, Bundle]:
        part = self.quote(bindings[0], Quoting(offset=self._accepted, extra_data=tpm_extra_data(*bindings)))
        return {own: Bundle((replace(part, others=tuple(sorted({*bindings} - {own}))),)) for own in bindings}

    def accepted(self, bundle: Bundle) -> None:
        part = bundle.parts[0]
        assert isinstance(part, TpmPart)
        self._accepted = part.ima_offset + len(part.ima_log)

    def forget(self) -> None:
        self._accepted = 0

    def bundle(self, binding: bytes, quoting: Quoting | None = None) -> Bundle:
        """Evidence for a binding, right unless `quoting` says otherwise."""
        return Bundle((self.quote(binding, quoting),))

    def quote(self, binding: bytes, quoting: Quoting | None = None) -> TpmPart:
        how = quoting or Quoting()
        self.clock += 10
        banks = how.banks if how.banks is not None else [(bank, QUOTED) for bank in self.banks]
        signed = [self.pcrs[bank][i] for bank, indices in banks for i in sorted(indices)]
        hash_name = how.hash or self._hash
        ak = check_ak(self.ak_public) if how.signer is None else None
        message = attest(
            magic=how.magic,
            kind=how.kind,
            signer=qualified_names(ak, None)[0] if ak else how.signer or b"",
            extra_data=tpm_extra_data(binding) if how.extra_data is None else how.extra_data,
            clock=how.clock or (self.clock, self.reset, self.restart, 1),
            firmware=self.firmware if how.firmware is None else how.firmware,
            selected=selection([(b, list(i)) for b, i in banks]) if how.selected is None else how.selected,
            pcr_digest=hashlib.new(self._hash, b"".join(signed)).digest() if how.pcr_digest is None else how.pcr_digest,
            trailing=how.trailing,
        )
        values = how.values or {bank: {i: self.pcrs[bank][i] for i in indices} for bank, indices in banks}
        signature = sign(how.key or self._ak, how.scheme or self._scheme, hash_name, message)
        log = self.ima_log if how.log is None else how.log
        event_log = self.boot_log.encoded if how.event_log is None else how.event_log
        cmdline = self.boots.cmdline if how.cmdline is None else how.cmdline
        return TpmPart(message, signature, values, log[how.offset :], how.offset, event_log, cmdline=cmdline)


def sign(key: Private, scheme: int, hash_name: str, message: bytes) -> bytes:
    """TPMT_SIGNATURE."""
    head = scheme.to_bytes(2) + HASH_IDS[hash_name].to_bytes(2)
    algorithm = CRYPTOGRAPHY[hash_name]
    if isinstance(key, rsa.RSAPrivateKey):
        pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.DIGEST_LENGTH)
        return head + sized(key.sign(message, pss if scheme == RSAPSS else padding.PKCS1v15(), algorithm))
    width = CURVE_WIDTHS[curve_of(key)]
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(algorithm)))
    return head + sized(r.to_bytes(width)) + sized(s.to_bytes(width))


def new_key(kind: str) -> Private:
    """A fresh key: ``p256``, ``p384``, ``p521``, ``rsa3072``, ``rsa4096``, else RSA-2048."""
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind]())
    return rsa.generate_private_key(65537, {"rsa3072": 3072, "rsa4096": 4096}.get(kind, 2048))


@functools.cache
def default_ca() -> DevelopmentCa:
    """One development CA for this process, so that machines can share a root."""
    return DevelopmentCa()


def with_part(bundle: Bundle, **changes: Any) -> Bundle:
    """The bundle with its TPM part changed, its signature as it was."""
    part = bundle.parts[0]
    assert isinstance(part, TpmPart)
    return Bundle((replace(part, **changes),))
