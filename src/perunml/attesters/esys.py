"""A thin layer over tpm2-pytss: one connection per use, handles flushed, errors as Perun's.

A connection is opened for each use and closed after it: a software TPM serves one client at a time, and a resource
manager frees what a closed connection left. Objects are persisted, because three transient slots are all there may be.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

# the library writes its own errors to stderr, in its own voice; ours carry the code
os.environ.setdefault("TSS2_LOG", "all+NONE")

from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_RH,
    TPM2_SE,
    TPM2_ST,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_NV_PUBLIC,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_NV,
    TPMS_NV_PUBLIC,
    TPMS_SENSITIVE_CREATE,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF,
    TPMT_TK_HASHCHECK,
    TPMU_SYM_KEY_BITS,
    TPMU_SYM_MODE,
    TSS2_Exception,
)

from perunml.attesters.codes import TPM_UNAVAILABLE
from perunml.wire.errors import refuse

NV_CHUNK = 512
"""Bytes per NV_Read: every TPM allows it (TPM2_PT_NV_BUFFER_MAX)."""
_AUTH_READ = 1 << 18
"""TPMA_NV_AUTHREAD (TPM 2.0 part 2, 13.4)."""
COUNTER_SIZE = 8
_COUNTER = TPMA_NV.AUTHREAD | TPMA_NV.AUTHWRITE | TPMA_NV.OWNERREAD | TPMA_NV.NO_DA | (0x1 << 4)
"""TPMA_NV of a counter: TPM_NT_COUNTER stands in bits 4 to 7 (part 2, 13.2, 13.4)."""
PCRS_PER_READ = 8
"""Digests that one PCR_Read answers (TPML_DIGEST)."""
ATTEMPTS = 8
"""Times that a policy is tried anew because a PCR was extended meanwhile: the kernel does so for each new file."""
_PCR_CHANGED, _POLICY_FAIL, _INTEGRITY = 0x128, 0x9D, 0x9F
_AUTH_FAIL = (0x8E, 0xA2)  # with and without consequences for the dictionary attack counter
"""Response codes (TPM 2.0 part 2, 6.6.3), of format one without the number of the handle, session or parameter."""
_ENCRYPTED = (
    0x60  # TPMA_SESSION decrypt and encrypt: the first parameter of command and answer is not sent in the clear
)


_ENCRYPTED_KEPT = 0x61
"""The same, and the session goes on after the command."""


class WrongState(Exception):
    """The PCRs are not those that a key was bound to."""


class WrongTpm(Exception):
    """A key's blob was made by another TPM, or was altered."""


@contextmanager
def open_tpm(tcti: str) -> Iterator[Tpm]:
    """A connection to the TPM. Raises `Unreachable` (tpm_unavailable) for whatever the TPM or its transport refuses."""
    try:
        with ESAPI(tcti) as esys:
            yield Tpm(esys)
    except TSS2_Exception as exc:
        raise refuse(TPM_UNAVAILABLE, f"the TPM refuses: {exc}", seen=tcti) from None
    except RuntimeError as exc:  # the transport could not be loaded or opened
        raise refuse(TPM_UNAVAILABLE, f"no TPM there: {exc}", seen=tcti) from None


class Tpm:
    """The few commands that are needed, bytes in and out."""

    def __init__(self, esys: Any) -> None:
        self._esys = esys

    def has(self, handle: int) -> bool:
        """Whether a persistent object or an NV index is there."""
        _, found = self._esys.get_capability(TPM2_CAP.HANDLES, handle, 1)
        handles = found.data.handles
        return bool(handles.count) and int(handles.handle[0]) == handle

    def read_public(self, handle: int) -> bytes:
        """TPM2B_PUBLIC of a persistent object."""
        public, _, _ = self._esys.read_public(self._esys.tr_from_tpmpublic(handle))
        return bytes(public.marshal())

    def create_endorsement_key(self, public: bytes, handle: int) -> None:
        """Make a primary key of the endorsement hierarchy from a TPM2B_PUBLIC template, and persist it at `handle`."""
        template, _ = TPM2B_PUBLIC.unmarshal(public)
        made, *_ = self._esys.create_primary(None, template, primary_handle=ESYS_TR.ENDORSEMENT)
        try:
            self._esys.evict_control(ESYS_TR.OWNER, made, handle)
        finally:
            self._esys.flush_context(made)

    def evict(self, handle: int) -> None:
        """Remove a persistent object."""
        self._esys.evict_control(ESYS_TR.OWNER, self._esys.tr_from_tpmpublic(handle), handle)

    def nv_read(self, index: int) -> bytes:
        """All bytes of an NV index that its own empty authorization opens, or else the owner's."""
        nv = self._esys.tr_from_tpmpublic(index)
        public, _ = self._esys.nv_read_public(nv)
        by = nv if int(public.nvPublic.attributes) & _AUTH_READ else ESYS_TR.OWNER
        size, found = int(public.nvPublic.dataSize), b""
        while len(found) < size:
            found += bytes(self._esys.nv_read(nv, min(NV_CHUNK, size - len(found)), len(found), auth_handle=by))
        return found

    def new_counter(self, index: int) -> None:
        """Define an NV counter that its own empty authorization counts and reads (TPM 2.0 part 2, 13.2). A TPM begins a new counter above
        every one that it ever had, so that none is made anew to count less."""
        public = TPM2B_NV_PUBLIC(
            TPMS_NV_PUBLIC(
                nvIndex=index, nameAlg=TPM2_ALG.SHA256, attributes=_COUNTER, authPolicy=b"", dataSize=COUNTER_SIZE
            )
        )
        self._esys.nv_define_space(b"", public, auth_handle=ESYS_TR.OWNER)

    def count(self, index: int) -> int:
        """Count an NV counter once more; what it says then."""
        nv = self._esys.tr_from_tpmpublic(index)
        self._esys.nv_increment(nv, auth_handle=nv)
        return int.from_bytes(self.nv_read(index))

    def drop_counter(self, index: int) -> None:
        """Undefine an NV index of the owner's."""
        self._esys.nv_undefine_space(self._esys.tr_from_tpmpublic(index), auth_handle=ESYS_TR.OWNER)

    def activate(
        self, ak: int, ek: int, credential: bytes, encrypted_secret: bytes, *, by_policy: bool = True
    ) -> bytes:
        """TPM2_ActivateCredential, with the low range's policy (PolicySecret of the endorsement hierarchy) or, for an EK of
        the high range, its own empty authorization."""
        blob, _ = TPM2B_ID_OBJECT.unmarshal(credential)
        secret, _ = TPM2B_ENCRYPTED_SECRET.unmarshal(encrypted_secret)
        if not by_policy:
            keys = self._esys.tr_from_tpmpublic(ak), self._esys.tr_from_tpmpublic(ek)
            password = ESYS_TR.PASSWORD
            return bytes(self._esys.activate_credential(*keys, blob, secret, session1=password, session2=password))
        session = self._esys.start_auth_session(
            ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), TPM2_ALG.SHA256
        )
        try:
            self._esys.policy_secret(ESYS_TR.ENDORSEMENT, session, expiration=0)
            found = self._esys.activate_credential(
                self._esys.tr_from_tpmpublic(ak),
                self._esys.tr_from_tpmpublic(ek),
                blob,
                secret,
                session1=ESYS_TR.PASSWORD,
                session2=session,
            )
        finally:
            self._esys.flush_context(session)
        return bytes(found)

    def quote(self, ak: int, banks: Mapping[str, Sequence[int]], extra_data: bytes) -> tuple[bytes, bytes]:
        """(TPMS_ATTEST, TPMT_SIGNATURE) by the key's own scheme."""
        attest, signature = self._esys.quote(self._esys.tr_from_tpmpublic(ak), _selection(banks), extra_data)
        return bytes(attest), bytes(signature.marshal())

    def read_pcrs(self, bank: str, indices: Sequence[int]) -> dict[int, bytes]:
        """Values by index; empty when the bank is not allocated."""
        found: dict[int, bytes] = {}
        for start in range(0, len(indices), PCRS_PER_READ):
            part = indices[start : start + PCRS_PER_READ]
            _, _, digests = self._esys.pcr_read(_selection({bank: part}))
            if len(digests) != len(part):
                return {}
            found.update(zip(part, (bytes(digest) for digest in digests), strict=True))
        return found

    def extend(self, index: int, digests: Mapping[str, bytes]) -> None:
        """Extend a PCR in several banks at once."""
        from tpm2_pytss import TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA

        values = [
            TPMT_HA(hashAlg=TPM2_ALG.parse(bank), digest=TPMU_HA(**{bank: digest})) for bank, digest in digests.items()
        ]
        self._esys.pcr_extend(ESYS_TR.parse(f"PCR{index}"), TPML_DIGEST_VALUES(values))

    def new_bound_key(
        self, root: bytes, template: bytes, banks: Mapping[str, Sequence[int]]
    ) -> tuple[bytes, bytes, bytes]:
        """A key under the storage root of a TPM2B_PUBLIC template, whose policy is that the PCRs are what they are now: (its
        TPM2B_PRIVATE, its TPM2B_PUBLIC, the storage root's name). `template` is its TPM2B_PUBLIC without a policy."""
        with self._storage_root(root) as parent:
            trial = self._session(ESYS_TR.NONE, TPM2_SE.TRIAL)
            try:
                self._esys.policy_pcr(trial, None, _selection(banks))
                policy = bytes(self._esys.policy_get_digest(trial))
            finally:
                self._esys.flush_context(trial)
            public, _ = TPM2B_PUBLIC.unmarshal(template)
            public.publicArea.authPolicy = policy
            private, made, *_ = self._esys.create(parent, TPM2B_SENSITIVE_CREATE(), public)
            return bytes(private.marshal()), bytes(made.marshal()), bytes(self._esys.tr_get_name(parent))

    def bound_hmac(
        self, root: bytes, name: bytes, private: bytes, public: bytes, banks: Mapping[str, Sequence[int]], data: bytes
    ) -> bytes:
        """HMAC-SHA256 of `data` under a key of `new_bound_key`, whose storage root's name was `name`. The answer crosses the
        bus encrypted to that root. Raises `WrongState`, `WrongTpm`."""
        with self._storage_root(root) as parent:
            if bytes(self._esys.tr_get_name(parent)) != name:
                raise WrongTpm
            with self._loaded(parent, private, public) as key:
                return _at_last(lambda: self._policy_hmac(parent, key, _selection(banks), data))

    def _policy_hmac(self, parent: Any, key: Any, selection: str, data: bytes) -> bytes:
        """Empty when a PCR, any PCR, was extended in between."""
        session = self._session(parent, TPM2_SE.POLICY)
        try:
            self._esys.trsess_set_attributes(session, _ENCRYPTED, _ENCRYPTED)
            self._esys.policy_pcr(session, None, selection)
            return bytes(self._esys.hmac(key, data, TPM2_ALG.SHA256, session1=session))
        except TSS2_Exception as exc:
            if _code(exc) == _POLICY_FAIL:
                raise WrongState from None
            if _code(exc) != _PCR_CHANGED:
                raise
            return b""
        finally:
            self._esys.flush_context(session)

    def new_binder(
        self, root: bytes, template: bytes, secret: bytes, banks: Mapping[str, Sequence[int]], ak: int
    ) -> tuple[bytes, bytes, bytes, bytes]:
        """A signing key under the storage root of a TPM2B_PUBLIC template, whose policy is that the PCRs are what they are now and
        that its user knows `secret`, which crosses the bus encrypted: (its TPM2B_PRIVATE, its TPM2B_PUBLIC, what the attestation
        key at `ak` certified of it, that signature). `template` is its TPM2B_PUBLIC without a policy."""
        with self._storage_root(root) as parent:
            trial = self._session(ESYS_TR.NONE, TPM2_SE.TRIAL)
            try:
                self._esys.policy_pcr(trial, None, _selection(banks))
                self._esys.policy_auth_value(trial)
                policy = bytes(self._esys.policy_get_digest(trial))
            finally:
                self._esys.flush_context(trial)
            public, _ = TPM2B_PUBLIC.unmarshal(template)
            public.publicArea.authPolicy = policy
            sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=secret))
            session = self._session(parent, TPM2_SE.HMAC)
            try:
                self._esys.trsess_set_attributes(session, _ENCRYPTED_KEPT, _ENCRYPTED_KEPT)
                private, made, *_ = self._esys.create(parent, sensitive, public, session2=session)
                key = self._esys.load(parent, private, made)
                try:
                    self._esys.tr_set_auth(key, secret)
                    attest, signature = self._esys.certify(
                        key,
                        self._esys.tr_from_tpmpublic(ak),
                        b"",
                        TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
                        session1=session,
                    )
                finally:
                    self._esys.flush_context(key)
            finally:
                self._esys.flush_context(session)
        return bytes(private.marshal()), bytes(made.marshal()), bytes(attest), bytes(signature.marshal())

    def binder_sign(
        self,
        root: bytes,
        private: bytes,
        public: bytes,
        secret: bytes,
        banks: Mapping[str, Sequence[int]],
        digest: bytes,
    ) -> bytes:
        """TPMT_SIGNATURE over a digest by a key of `new_binder`. Raises `WrongState` (other PCRs, or another secret), `WrongTpm`."""
        with self._storage_root(root) as parent, self._loaded(parent, private, public) as key:
            self._esys.tr_set_auth(key, secret)
            return _at_last(lambda: self._policy_sign(parent, key, _selection(banks), digest))

    def _policy_sign(self, parent: Any, key: Any, selection: str, digest: bytes) -> bytes:
        """Empty when a PCR, any PCR, was extended in between."""
        session = self._session(parent, TPM2_SE.POLICY)
        ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
        try:
            self._esys.policy_pcr(session, None, selection)
            self._esys.policy_auth_value(session)
            scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
            return bytes(self._esys.sign(key, digest, scheme, ticket, session1=session).marshal())
        except TSS2_Exception as exc:
            if _code(exc) in (_POLICY_FAIL, *_AUTH_FAIL):
                raise WrongState from None
            if _code(exc) != _PCR_CHANGED:
                raise
            return b""
        finally:
            self._esys.flush_context(session)

    @contextmanager
    def _loaded(self, parent: Any, private: bytes, public: bytes) -> Iterator[Any]:
        """A key under `parent`, from its blobs. Raises `WrongTpm`."""
        try:
            key = self._esys.load(parent, TPM2B_PRIVATE.unmarshal(private)[0], TPM2B_PUBLIC.unmarshal(public)[0])
        except TSS2_Exception as exc:
            if _code(exc) == _INTEGRITY:
                raise WrongTpm from None
            raise
        try:
            yield key
        finally:
            self._esys.flush_context(key)

    @contextmanager
    def _storage_root(self, template: bytes) -> Iterator[Any]:
        """The storage root key, which a TPM makes the same again until its owner clears it."""
        made, *_ = self._esys.create_primary(None, TPM2B_PUBLIC.unmarshal(template)[0], primary_handle=ESYS_TR.OWNER)
        try:
            yield made
        finally:
            self._esys.flush_context(made)

    def _session(self, salted_to: Any, kind: Any) -> Any:
        """A policy session, whose secrets are encrypted to a key of the TPM where one is given."""
        if salted_to == ESYS_TR.NONE:
            symmetric = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
        else:
            symmetric = TPMT_SYM_DEF(
                algorithm=TPM2_ALG.AES, keyBits=TPMU_SYM_KEY_BITS(aes=128), mode=TPMU_SYM_MODE(aes=TPM2_ALG.CFB)
            )
        return self._esys.start_auth_session(salted_to, ESYS_TR.NONE, kind, symmetric, TPM2_ALG.SHA256)

    def shutdown(self) -> None:
        """TPM2_Shutdown(CLEAR): the orderly end, after which the clock is safe."""
        from tpm2_pytss import TPM2_SU

        self._esys.shutdown(TPM2_SU.CLEAR)


def _at_last(use: Callable[[], bytes]) -> bytes:
    """What a key under a policy of PCRs gives, once none was extended while it was asked."""
    for _ in range(ATTEMPTS):
        if found := use():
            return found
    raise refuse(TPM_UNAVAILABLE, f"PCRs changed {ATTEMPTS} times while a key was asked for")


def _selection(banks: Mapping[str, Sequence[int]]) -> str:
    return "+".join(f"{bank}:{','.join(map(str, indices))}" for bank, indices in banks.items())


def _code(exc: Any) -> int:
    """A response code; of format one (bit 7) without the part that names a handle, session or parameter."""
    code = int(exc.rc)
    return code & 0xBF if code & 0x80 else code
