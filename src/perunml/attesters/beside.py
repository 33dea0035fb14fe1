"""A TPM beside a TEE, shown to be of the same machine: what a host keeps and does for the binders ``tpm-key`` and ``pcr``
(docs/spec/tee.md, "Binders").

What is kept lies in the agent's folder, which must be the TEE's own: in its encrypted memory, or on a disk that only it opens.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, get_args

from perunml.attesters.binder import SECRET_SIZE, BinderKey, new_binder, sign_binding
from perunml.attesters.codes import BINDER_KEY, KEY_MEASURED, KEY_NOT_MEASURED
from perunml.attesters.esys import WrongState, WrongTpm, open_tpm
from perunml.attesters.tpm import TpmAttester
from perunml.evidence.bundle import BANK_SIZES, Bundle, TpmPart
from perunml.evidence.composite import BINDER_PCR, binder_pcr
from perunml.evidence.parts import MAX_KEY
from perunml.wire.errors import refuse
from perunml.wire.identity import SigningKey

Binder = Literal["", "tpm-key", "pcr"]
BINDERS: tuple[Binder, ...] = get_args(Binder)
BINDER_FILE, KEY_FILE = "binder.json", "tee-key.txt"
BANK = "sha256"
"""Of the PCR that shows the TEE's key; the other banks are extended along."""
ENROL = "perunml host enrol"
MEASURE = "perunml host measure-key"


class BoundTpm:
    """A `TpmAttester` whose every part is signed by the key that only this TEE can use: made when the machine enrols, and anew
    where it does not work any more (the TPM or PCRs 0 to 7 are others)."""

    def __init__(self, tpm: TpmAttester, tcti: str, state: Path) -> None:
        self._tpm, self._tcti, self._file = tpm, tcti, state / BINDER_FILE
        self._lock = threading.Lock()
        self._made: BinderKey | None = None  # until the manager's challenge is answered

    @property
    def machine(self) -> str:
        return self._tpm.machine

    def enrolment(self) -> dict[str, bytes | list[bytes]]:
        """The TPM's, and the binder key as its attestation key certified it."""
        claim = self._tpm.enrolment()
        with self._lock:
            return {**claim, **self._working_key().enrolment()}

    def activate(self, credential: bytes, encrypted_secret: bytes) -> bytes:
        """As `TpmAttester` does; the binder key that this enrolment told is kept from now on."""
        with self._lock:
            if self._made is not None:
                _write(self._file, json.dumps({name: value.hex() for name, value in asdict(self._made).items()}))
        return self._tpm.activate(credential, encrypted_secret)

    def collect(self, binding: bytes) -> Bundle:
        """A quote, with the binder key's signature over `binding`. Raises `EvidenceRefusal` (binder_key) too."""
        return self.collect_many([binding])[binding]

    def collect_many(self, bindings: Sequence[bytes]) -> Mapping[bytes, Bundle]:
        """One quote for all `bindings`, for each a signature of its own."""
        with self._lock:
            key = self._kept()
            if key is None:
                raise refuse(BINDER_KEY, "the machine was enrolled without a binder key", seen=str(self._file), command=ENROL)  # fmt: skip
            found = self._tpm.collect_many(bindings)
            try:
                return {own: _signed(bundle, sign_binding(self._tcti, key, own)) for own, bundle in found.items()}
            except (WrongState, WrongTpm):
                raise refuse(BINDER_KEY, "the binder key does not work in this TPM and state", seen=self.machine, command=ENROL) from None  # fmt: skip

    def accepted(self, bundle: Bundle) -> None:
        self._tpm.accepted(bundle)

    def forget(self) -> None:
        self._tpm.forget()

    def _working_key(self) -> BinderKey:
        key = self._made or self._kept()
        try:
            if key is not None:
                sign_binding(self._tcti, key, bytes(48))
                return key
        except (WrongState, WrongTpm):
            pass
        self._made = new_binder(self._tcti, secrets.token_bytes(SECRET_SIZE))
        return self._made

    def _kept(self) -> BinderKey | None:
        try:
            told = json.loads(self._file.read_text())
            return BinderKey(**{name: bytes.fromhex(value) for name, value in told.items()})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError):
            raise refuse(BINDER_KEY, "the file that keeps the binder key is damaged", seen=str(self._file), command=ENROL) from None  # fmt: skip


def measure_key(tcti: str, state: Path) -> str:
    """Once in a boot, before anything but the TEE's own system runs: make up the text of a key that no other TEE has, keep it in
    `state`, and extend PCR 15 with it. The text. Doing it again in the same boot changes nothing.

    Raises `EvidenceRefusal` (key_measured) where PCR 15 shows anything else, `Unreachable` (tpm_unavailable)."""
    path = state / KEY_FILE
    with open_tpm(tcti) as tpm:
        banks = [bank for bank in BANK_SIZES if tpm.read_pcrs(bank, [BINDER_PCR])]
        shown = tpm.read_pcrs(BANK, [BINDER_PCR]).get(BINDER_PCR, b"")
        if any(shown):
            kept = _read(path)
            if kept and shown == binder_pcr(kept):
                return kept
            raise refuse(KEY_MEASURED, f"PCR {BINDER_PCR} is not zero", expected="00" * 32, seen=shown.hex())
        if BANK not in banks:
            raise refuse(KEY_MEASURED, "the TPM has no such bank", expected=BANK, seen=", ".join(banks) or "none")
        text = SigningKey.generate().public.text
        _write(path, text)  # before the PCR, which cannot be taken back
        tpm.extend(BINDER_PCR, {bank: hashlib.new(bank, text.encode()).digest() for bank in banks})
    return text


def measured_key(state: Path) -> str:
    """The text that `measure_key` kept. Raises `UsageError` (key_not_measured)."""
    if not (found := _read(state / KEY_FILE)):
        raise refuse(KEY_NOT_MEASURED, "no key was measured in this folder", seen=str(state), command=MEASURE)
    return found


def _signed(bundle: Bundle, signature: bytes) -> Bundle:
    return Bundle(
        tuple(replace(part, binder=signature) if isinstance(part, TpmPart) else part for part in bundle.parts)
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()[:MAX_KEY].strip()
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    """Whole or not at all, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
