"""The attester of a machine with a TPM 2.0: enrolment, activation, and quotes with the IMA log.

The attestation key is a primary key of the endorsement hierarchy (ECC P-256, ECDSA with SHA-256; a quote takes half a
millisecond): restricted, fixedTPM, fixedParent, sensitiveDataOrigin. The TPM can make the same one again at any time, so
nothing of it is kept but its persistent handle.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from perunml.attesters.codes import (
    EK_CERTIFICATE_MISSING,
    TPM_CHANGED,
)
from perunml.attesters.esys import Tpm, open_tpm
from perunml.attesters.quoting import QUOTED, Quoter
from perunml.evidence.bundle import Bundle
from perunml.evidence.pem import split
from perunml.evidence.tpm.algorithms import AES, CFB, CURVE_IDS, ECC, ECDSA, HASH_IDS, NULL, RSA
from perunml.evidence.tpm.chain import MAX_CHAIN
from perunml.evidence.tpm.keys import (
    ADMIN_WITH_POLICY,
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    USER_WITH_AUTH,
    check_ak,
)
from perunml.evidence.tpm.public import parse_public
from perunml.evidence.tpm.template import POLICY_A_SHA256, STANDARD, check_ek_template, ek_machine
from perunml.wire.errors import PerunError, refuse

AK_HANDLE = 0x81015001
EK_RSA_HANDLE, EK_ECC_HANDLE = 0x81010001, 0x81010002
EK_RSA_CERTIFICATE, EK_ECC_CERTIFICATE = 0x01C00002, 0x01C0000A
"""TCG EK Credential Profile 2.5, 2.2.1.4; RSA-2048 EK's handle as in TCG Provisioning Guidance, 7.8."""
_TPM = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data


AK_TEMPLATE = _sized(
    struct.pack(">HHIH", ECC, HASH_IDS["sha256"], _TPM | USER_WITH_AUTH | SIGN, 0)
    + struct.pack(">HHHHH", NULL, ECDSA, HASH_IDS["sha256"], CURVE_IDS["p256"], NULL)
    + struct.pack(">HH", 0, 0)
)
_EK_HEAD = struct.pack(">HI", HASH_IDS["sha256"], _TPM | ADMIN_WITH_POLICY | DECRYPT)
_STORAGE = struct.pack(">HHHH", AES, 128, CFB, NULL)
EK_RSA_TEMPLATE = _sized(
    RSA.to_bytes(2) + _EK_HEAD + _sized(POLICY_A_SHA256) + _STORAGE + struct.pack(">HI", 2048, 0) + _sized(bytes(256))
)
EK_ECC_TEMPLATE = _sized(
    ECC.to_bytes(2)
    + _EK_HEAD
    + _sized(POLICY_A_SHA256)
    + _STORAGE
    + struct.pack(">HH", CURVE_IDS["p256"], NULL)
    + _sized(bytes(32))
    + _sized(bytes(32))
)
"""Templates L-1 and L-2 of the EK Credential Profile, annex B.3."""
EK_CHAIN = range(0x01C00100, 0x01C00110)
"""NV indices from which on some TPMs hold the certificates above the EK's (profile, 2.2.1.5.2); one firmware TPM fills several."""


def _high_template(key: str, name_hash: str, bits: int) -> bytes:
    """A template of the high range (annex B.4), its unique field empty."""
    (attributes, policy), _ = next(item for item in STANDARD[key, name_hash, bits].items() if item[1].startswith("H"))
    rsa = key.startswith("rsa")
    head = struct.pack(">HHI", RSA if rsa else ECC, HASH_IDS[name_hash], attributes) + _sized(policy)
    head += struct.pack(">HHHH", AES, bits, CFB, NULL)
    if rsa:
        return _sized(head + struct.pack(">HI", int(key[3:]), 0) + _sized(b""))
    return _sized(head + struct.pack(">HH", CURVE_IDS[key], NULL) + _sized(b"") + _sized(b""))


ENDORSEMENT_KEYS: tuple[tuple[int, int, bytes], ...] = (
    # (the certificate's NV index, where the key is kept, its template), in the order in which they are taken
    (EK_ECC_CERTIFICATE, EK_ECC_HANDLE, EK_ECC_TEMPLATE),
    (EK_RSA_CERTIFICATE, EK_RSA_HANDLE, EK_RSA_TEMPLATE),
    (0x01C00014, 0x81010014, _high_template("p256", "sha256", 128)),
    (0x01C00016, 0x81010016, _high_template("p384", "sha384", 256)),
    (0x01C00012, 0x81010012, _high_template("rsa2048", "sha256", 128)),
    (0x01C0001C, 0x8101001C, _high_template("rsa3072", "sha384", 256)),
    (0x01C0001E, 0x8101001E, _high_template("rsa4096", "sha384", 256)),
    (0x01C00018, 0x81010018, _high_template("p521", "sha512", 256)),
)


class TpmAttester:
    """This machine's TPM, as an `Attester`. Thread-safe; several may exist, for a connection lasts one call.

    tcti       the TPM2 Software Stack's name of the transport: ``device:/dev/tpmrm0``, ``swtpm:host=127.0.0.1,port=2321``
    state      a folder that remembers which TPM it was made for
    ima_log    the kernel's by default
    event_log  the firmware's boot log, by default the kernel's copy where there is one; an empty file sends none. With
               an `ima_log` given and no `event_log`, none is sent: such a machine is made up of files
    cmdline    what the kernel's command line is read from, by default this kernel's where its boot log is sent
    ek_chain   certificates between the EK's and its root, DER or PEM files
    quoted     PCRs; 15 too where it shows a TEE's key
    """

    def __init__(
        self,
        tcti: str,
        state: Path,
        ima_log: Path | None = None,
        event_log: Path | None = None,
        ek_chain: Sequence[Path] = (),
        cmdline: Path | None = None,
        quoted: Sequence[int] = QUOTED,
    ) -> None:
        self._tcti, self._state = tcti, state
        self._ek_chain = tuple(ek_chain)
        self._lock = threading.Lock()
        self._quoter = Quoter(tcti, AK_HANDLE, ima_log, event_log, cmdline, quoted)
        with self._lock, open_tpm(tcti) as tpm:
            self._ek_handle, self._ek_certificate = _endorsement_key(tpm)
            self._ek_public = tpm.read_public(self._ek_handle)
            self._ak_public = _attestation_key(tpm)
            self._nv_chain = _certificates_above(tpm)
            self._quoter.find_banks(tpm)
        self._machine = ek_machine(check_ek_template(self._ek_public))
        self._remember()

    @property
    def machine(self) -> str:
        return self._machine

    def enrolment(self) -> dict[str, bytes | list[bytes]]:
        """What a manager needs to know this machine: ek_certificate, ek_chain (DER), ek_public, ak_public."""
        return {
            "ek_certificate": self._ek_certificate,
            "ek_chain": [*(one for path in self._ek_chain for one in split(path.read_bytes())), *self._nv_chain],
            "ek_public": self._ek_public,
            "ak_public": self._ak_public,
        }

    def activate(self, credential: bytes, encrypted_secret: bytes) -> bytes:
        """The credential's secret: only the TPM that holds both keys can tell it."""
        with self._lock, open_tpm(self._tcti) as tpm:
            by_policy = not parse_public(self._ek_public).attributes & USER_WITH_AUTH
            return tpm.activate(AK_HANDLE, self._ek_handle, credential, encrypted_secret, by_policy=by_policy)

    def collect(self, binding: bytes) -> Bundle:
        """A fresh quote bound to `binding`, and the IMA log's part since the last accepted one of this boot."""
        return self.collect_many([binding])[binding]

    def collect_many(self, bindings: Sequence[bytes]) -> Mapping[bytes, Bundle]:
        """One quote bound to all `bindings`, for each the bundle that tells which the others are."""
        return {own: Bundle((part,)) for own, part in self._quoter.parts(bindings).items()}

    def accepted(self, bundle: Bundle) -> None:
        """The judge keeps the log up to here: later bundles of this boot leave it out."""
        self._quoter.accepted(bundle)

    def forget(self) -> None:
        """Send the whole log next time: the judge did not know the part before."""
        self._quoter.forget()

    def _remember(self) -> None:
        path = self._state / "tpm.json"
        now = {"machine": self._machine, "ak": check_ak(self._ak_public).name.hex()}
        if path.exists():
            if json.loads(path.read_text()) != now:
                raise refuse(TPM_CHANGED, "this folder was made for another TPM", seen=self._machine)
            return
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = path.with_suffix(".new")
        with new.open("w") as file:
            json.dump(now, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)


def _endorsement_key(tpm: Tpm) -> tuple[int, bytes]:
    """The persistent EK that the TPM has a certificate for, and the certificate."""
    for index, handle, template in ENDORSEMENT_KEYS:
        if tpm.has(index):
            if not tpm.has(handle):
                tpm.create_endorsement_key(template, handle)
            return handle, _der(tpm.nv_read(index))
    raise refuse(EK_CERTIFICATE_MISSING, "the TPM has no EK certificate of any standard template")


def _certificates_above(tpm: Tpm) -> list[bytes]:
    """The certificates that the TPM itself holds above its EK's: one after the other, also across NV indices."""
    found = b""
    for index in EK_CHAIN:
        if not tpm.has(index):
            break
        found += tpm.nv_read(index)
    chain = []
    while found[:2] == b"\x30\x82":
        size = 4 + int.from_bytes(found[2:4])
        chain.append(found[:size])
        found = found[size:]
    return chain[:MAX_CHAIN]


def _attestation_key(tpm: Tpm) -> bytes:
    """TPM2B_PUBLIC of the attestation key at our handle, made when it is not there or is not one."""
    if tpm.has(AK_HANDLE):
        public = tpm.read_public(AK_HANDLE)
        try:
            check_ak(public)
            return public
        except PerunError:
            tpm.evict(AK_HANDLE)
    tpm.create_endorsement_key(AK_TEMPLATE, AK_HANDLE)
    return tpm.read_public(AK_HANDLE)


def _der(data: bytes) -> bytes:
    """The certificate at the start of an NV index, which may be larger than it."""
    if len(data) < 4 or data[0] != 0x30 or data[1] != 0x82:
        raise refuse(EK_CERTIFICATE_MISSING, "the NV index for the EK certificate holds none")
    return data[: 4 + int.from_bytes(data[2:4])]
