"""Runs: requested by a party, taken by a host; challenge, release, renewal, outputs, finish.

POST /v1/runs                      party     RunRequest      -> RunView
GET  /v1/runs[?agreement=]         party                     -> RunList
GET  /v1/runs/{run}                party                     -> RunView
GET  /v1/host/work                 host certificate          -> Work
POST /v1/runs/{run}/challenge      host certificate          -> Challenge
POST /v1/runs/{run}/release        host certificate  ReleaseRequest -> ReleaseAnswer
POST /v1/runs/{run}/renew          lease certificate RenewRequest   -> RenewAnswer
POST /v1/runs/{run}/outputs        lease certificate RegisterOutput -> AssetView
POST /v1/runs/{run}/checkpoints    lease certificate RegisterCheckpoint -> AssetView
POST /v1/runs/{run}/finish         lease certificate FinishRequest  -> FinishAnswer
POST /v1/runs/{run}/quota          lease certificate QuotaRequest   -> QuotaAnswer
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from perunml.api.base import B64, Document, Message, Signed
from perunml.wire.digests import digest_of

NONCE_SIZE = 32


class RunRequest(Message):
    """DSSE kind "RunRequest", signed by a key of a party: {manager, agreement, job, parameters, assets, id}. `assets`
    pins digests by asset name (may be empty); `id` is 32 hex digits, fresh: the same request twice is one run."""

    request: Signed


class OutputView(Message):
    name: str
    asset: str  # digest of the sealed output's manifest
    agreement: str  # the version that rules it now: what an approval names
    to: list[str]
    released_to: list[str]  # recipients who may pull it now


class RunView(Message):
    run: str  # 32 hex digits, the request's id
    agreement: str
    job: str
    state: str  # queued | reserved | running | finished | failed | refused | lost
    requested_by: str  # party
    parameters: dict[str, Any]
    host: str  # machine, or ""
    simulated: bool
    reasons: list[Document]  # wire.rules.Reason as JSON: why refused, failed or lost
    outputs: list[OutputView]
    receipt: Signed | None
    endpoint: str  # of a service, as its host told it; not trusted
    lease_until: str  # RFC 3339, or ""


class RunList(Message):
    runs: list[RunView]


class WorkItem(Message):
    run: str
    agreement: str
    job: str
    kind: str  # train | serve


class Work(Message):
    items: list[WorkItem]


class Challenge(Message):
    """Single use, `expires_in` seconds by the manager's monotonic clock. `run_document` is canonical
    {agreement, job, run, parameters}: its digest goes into the binding."""

    nonce: B64
    expires_in: int
    agreement: str
    run_document: Document
    role: str  # the agreement's name of the host's role
    manager: str


class ReleaseRequest(Message):
    """Evidence bound to ``binding(purpose="release", …, payload="")``."""

    nonce: B64
    session_hpke: str
    session_key: str  # ed25519:… TLS client key and signer of outputs and answers: the binding's session_tls
    endpoint: str = ""  # services: where clients reach it
    evidence: Document


class ReleaseAnswer(Message):
    """`sealed` is a `KeyDelivery` HPKE-sealed to the session key under
    ``{label: "perunml/release", manager, agreement, run, nonce: base64url}``; the certificate (PEM) is the lease's.
    `lease_seconds` count from the sending of the request."""

    sealed: B64
    certificate: str
    lease: str
    lease_seconds: int
    next_nonce: B64
    entry: int  # index in the ledger
    checkpoint: str  # signed note that covers the entry


class InputKey(Message):
    """One sealed input, and what it takes to read it."""

    asset: str
    kind: str
    mount: str  # where the job sees it: /in/scans, or /code
    manifest: Signed
    owners: list[str]  # public keys that may have signed the manifest
    key: B64
    store: str = Field(
        default="", exclude_if=lambda name: not name
    )  # its blobs lie in this bucket, else at the manager


class OutputKey(Message):
    """One declared output: the key to seal it under, and what it must be."""

    key: B64
    asset_id: str
    format: str  # "log": what the job printed, not a file of its own
    max_size: int
    fields: list[str]  # metrics: the only members allowed, or empty


class CheckpointKey(Message):
    """How a training's checkpoints are kept: numbered from `number`, `every` so many seconds, each padded to the same size.
    `last` is what the run goes on from; None: it begins."""

    key: B64
    asset_id: str
    number: int
    every: int
    max_size: int
    last: InputKey | None = None


class KeyDelivery(Message):
    """What a host gets. `job` is the agreement's job as JSON; `simulated` says what the manager saw."""

    run: str
    agreement: str
    kind: str  # train | serve
    job: Document
    entry: str  # code asset's entry, or ""
    parameters: dict[str, Any]
    inputs: dict[str, InputKey]  # "code", "model", or an asset's name
    outputs: dict[str, OutputKey]
    clients: dict[str, list[str]]  # services: party -> key texts
    wall_seconds: int
    simulated: bool
    service_certificate: Signed | None = None
    checkpoints: CheckpointKey | None = None


class RenewRequest(Message):
    """Evidence bound to ``binding(purpose="renew", …, payload="")`` with the last answer's next_nonce."""

    nonce: B64
    evidence: Document


class RenewAnswer(Message):
    lease_seconds: int
    next_nonce: B64
    service_certificate: Signed | None = None


class RegisterOutput(Message):
    """A sealed output's manifest, signed by the session key; its blobs follow by PUT. Nothing is registered for others
    before `finish`."""

    name: str
    manifest: Signed


class RegisterCheckpoint(Message):
    """A sealed checkpoint's manifest, signed by the session key. Sent before its blobs, and once more after them: only then is it kept, and
    the one before goes."""

    manifest: Signed


class FinishRequest(Message):
    """Evidence bound to ``binding(purpose="finish", …, payload=finish_payload(outputs, devices))``. A run that failed
    sends one error class, and no outputs but its log where the agreement says `level: full`. `devices` (`ledger.devices`) are GPUs that the job was shown."""

    nonce: B64
    evidence: Document
    outputs: dict[str, str]
    error: str = ""  # "" or one of ERRORS
    reasons: list[Document] = Field(default_factory=list)
    devices: Document | None = Field(default=None, exclude_if=lambda found: found is None)


ERRORS = (
    "code_failed", "out_of_memory", "gpu_out_of_memory", "not_finite", "out_of_time", "output_refused", "killed", "internal",
)  # fmt: skip
"""How a run can fail: all that is said of it unless its agreement lets its log out."""


def finish_payload(outputs: Mapping[str, str], devices: dict[str, Any] | None) -> str:
    """What the evidence at a run's end is bound to: the digest of {name: manifest digest}, or of {outputs, devices}."""
    return digest_of(dict(outputs) if devices is None else {"outputs": dict(outputs), "devices": devices})


class FinishAnswer(Message):
    receipt: Signed  # DSSE kind "Receipt" by the manager (ledger.receipts)
    entry: int


class QuotaRequest(Message):
    wanted: int


class QuotaAnswer(Message):
    """So many more requests may be answered; 0 when the window's are used up, then ask again in `retry_seconds`."""

    granted: int
    retry_seconds: int


class OutputDelivery(Message):
    """GET /v1/outputs/{asset}/delivery: the output's data key, HPKE-sealed to the caller's party's receiving key under
    ``{label: "perunml/output-key", manager, agreement, run, output, asset, party}``."""

    manifest: Signed
    signer: str  # the session key that signed the manifest
    agreement: str
    run: str
    output: str
    party: str
    sealed_key: B64
    receipt: Signed


class ApproveOutput(Message):
    """DSSE kind "OutputApproval": {manager, agreement, run, output, asset, party}; `agreement` is OutputView's. POST /v1/outputs/{asset}/approvals."""

    approval: Signed
