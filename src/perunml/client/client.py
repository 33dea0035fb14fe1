"""`Client`: all that the command line does, from Python.

from perunml import Client

with Client.open("~/.perunml", passphrase) as client:
    sealed = client.seal("scans/", name="scans", kind="dataset")
    client.push("scans")
    run = client.submit("brain-mri-2027", "train", {"epochs": 10})
    client.wait(run.run)
    client.pull(run.run, "model", "model/")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perunml.client.codes import NO_OUTPUT, NOT_FOUND
from perunml.client.connection import Connection, WouldSend
from perunml.client.home import Home, default_home
from perunml.client.identity import Identity
from perunml.wire.canonical import canonical
from perunml.wire.errors import AgreementRefusal, Unreachable, refuse

if TYPE_CHECKING:
    from perunml.agreements.review import Section
    from perunml.agreements.schema import Agreement
    from perunml.api.agreements import AgreementView, SuspensionView
    from perunml.api.assets import AssetView, DocumentView
    from perunml.api.hosts import HostView
    from perunml.api.inference import ReceiptFile
    from perunml.api.pin import Pin
    from perunml.api.runs import OutputView, RunView
    from perunml.client.assets import Progress, SealedAsset
    from perunml.client.audit import Audit
    from perunml.client.outputs import Pulled
    from perunml.wire.dsse import Envelope

PathLike = str | Path


class Client:
    """One party: its home folder, its open keys, and one pinned manager. Not thread-safe; use it in ``with``."""

    def __init__(self, home: Home, identity: Identity, *, manager: str = "", dry_run: bool = False) -> None:
        self.home = home
        self.identity = identity
        self._manager = manager
        self._dry_run = dry_run
        self._connection: Connection | None = None

    @classmethod
    def open(
        cls, home: PathLike | None = None, passphrase: bytes = b"", *, manager: str = "", dry_run: bool = False
    ) -> Client:
        """The party of a home folder (default ``$PERUNML_HOME``, then ``~/.perunml``). `manager` chooses among several
        pins; with `dry_run` what would be sent is raised as `client.connection.WouldSend`. Raises `UsageError`
        (no_identity), `IntegrityError` (unseal_failed)."""
        found = Home(Path(home).expanduser() if home is not None else default_home())
        return cls(found, Identity.open(found, passphrase), manager=manager, dry_run=dry_run)

    @classmethod
    def create(cls, home: PathLike, name: str, passphrase: bytes, *, algorithm: str = "ed25519") -> Client:
        """A new party, in a folder that has no identity yet."""
        made = Home(Path(home).expanduser())
        return cls(made, Identity.create(made, name, passphrase, algorithm=algorithm))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection to the manager; the client may be used again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __repr__(self) -> str:
        return f"<Client {self.identity.name} at {self.home.folder}>"

    @property
    def dry_run(self) -> bool:
        """Whether what would be sent is raised as `client.connection.WouldSend` instead."""
        return self._dry_run

    @property
    def pin(self) -> Pin:
        """The pinned manager. Raises `UsageError` (not_pinned)."""
        return self.home.pin(self._manager)

    @property
    def connection(self) -> Connection:
        """Signed requests to the pinned manager; made when first needed."""
        if self._connection is None:
            self._connection = Connection(self.pin, self.identity.signing, dry_run=self._dry_run)
        return self._connection

    def trust(
        self,
        url: str,
        profile: PathLike,
        *,
        baselines: Sequence[PathLike] = (),
        signed_by: Sequence[str] = (),
        vendor_roots: Sequence[PathLike] = (),
        simulated_ek_roots: Sequence[PathLike] = (),
        revocations: Sequence[PathLike] = (),
        collateral: Sequence[PathLike] = (),
        simulated_tee_roots: Sequence[PathLike] = (),
    ) -> Pin:
        """Verify the manager's evidence against a profile document, and pin it; in a dry run only verify it. `baselines` are
        the documents that a `measured` profile names, `signed_by` the keys that must have signed a published one; roots and
        revocation lists are for a TPM's EK certificate; `collateral` are bundles that a TEE is judged with in place of the
        manager's own, under development roots `simulated_tee_roots`. Raises `EvidenceRefusal`, `Unreachable`."""
        from perunml.client import trust

        ek = {"vendor_roots": vendor_roots, "simulated_ek_roots": simulated_ek_roots, "revocations": revocations}
        tee = {"collateral": collateral, "simulated_tee_roots": simulated_tee_roots}
        given = trust.Given.read(**{name: list(map(Path, paths)) for name, paths in {**ek, **tee}.items()})
        wanted = trust.read_profile(Path(profile), list(map(Path, baselines)), signed_by)
        found = trust.examine(url, wanted, given=given, seen=trust.seen_before(self.home))
        if not self._dry_run:
            trust.keep(self.home, found)
        return found.pin

    # Assets

    def seal(self, source: PathLike, *, name: str, kind: str, progress: Progress | None = None) -> SealedAsset:
        """Seal a folder or file into the home folder; nothing is sent."""
        from perunml.client import assets

        return assets.seal(self.home, self.identity, Path(source), name=name, kind=kind, progress=progress)

    def push(self, name: str, *, version: int | None = None, progress: Progress | None = None) -> AssetView:
        """Send a sealed asset; goes on where an interrupted push stopped."""
        from perunml.client import assets

        self.home.asset(name, version)  # what is missing here is said before anybody is asked
        return assets.push(self.connection, self.home, self.identity, name, version=version, progress=progress)

    def assets(self) -> list[tuple[str, int, str]]:
        """(name, version, digest) of everything sealed in the home folder. Asks nobody."""
        from perunml.client import assets

        return assets.local_assets(self.home)

    def asset(self, name: str) -> AssetView:
        """An asset as the manager holds it; by digest, or by its name in the home folder."""
        from perunml.client import assets

        return assets.show(self.connection, self.asset_digest(name))

    def asset_digest(self, name: str) -> str:
        """The digest of an asset given by digest, or by its name in the home folder."""
        from perunml.client import assets

        if name.startswith("sha256:"):
            return name
        return assets.load_sealed(self.home, self.identity, name)[0].asset

    def push_document(self, kind: str, body: Mapping[str, Any]) -> DocumentView:
        """Sign and send a document that agreements name by digest (a Baseline)."""
        from perunml.client import assets

        return assets.push_document(self.connection, self.identity, kind, dict(body))

    def sign_document(self, file: PathLike) -> Envelope:
        """A ManagerProfile in a signed envelope, ready to be published: of a document, or one more signature on an envelope
        (docs/measurements.md). Sends nothing. Raises `UsageError` (malformed, local_file), `IntegrityError`."""
        from perunml.client.evidence import read_evidence
        from perunml.client.profile import sign_profile

        return sign_profile(read_evidence(Path(file)), self.identity.signing)

    @staticmethod
    def document_digest(kind: str, body: Mapping[str, Any]) -> str:
        """The digest by which an agreement names a document; `client.documents.read_document` reads one from a file.
        Sends nothing."""
        from perunml.wire.dsse import unsigned

        return unsigned(kind, dict(body)).digest

    # Agreements

    @staticmethod
    def check(agreement: Agreement | bytes | PathLike) -> Agreement:
        """An agreement from YAML or JSON (a path, or bytes), its form checked. Asks nobody. Raises `UsageError` (malformed,
        agreement_inconsistent) with every place that is wrong."""
        from perunml.client.agreements import read_agreement

        if isinstance(agreement, (str, Path)):
            agreement = Path(agreement).read_bytes()
        return read_agreement(agreement) if isinstance(agreement, bytes) else agreement

    @staticmethod
    def agreement_schema() -> dict[str, Any]:
        """The JSON Schema of agreements."""
        from perunml.agreements.document import json_schema

        return json_schema()

    def review(self, agreement: Agreement | bytes | PathLike, party: str = "") -> list[Section]:
        """In sentences, what an agreement means for a party (default: this one), what its mode does not protect, and what
        approving would sign. Asks nobody; what the manager holds is `client.agreement(name)[1]`."""
        from perunml.agreements.review import review

        document = self.check(agreement)
        return review(document, party or self.party_in(document))

    def about_baselines(self, agreement: Agreement) -> Section | None:
        """In sentences, the baselines that an agreement names, as the manager holds them, and who signed each."""
        from perunml.client import documents

        return documents.about_baselines(self.connection, agreement)

    def propose(self, agreement: Agreement | bytes | PathLike) -> AgreementView:
        """Sign an agreement as its proposer and send it; approves nothing yet."""
        from perunml.client import agreements

        return agreements.propose(self.connection, self.home, self.identity, self.check(agreement))

    def agreements(self) -> list[AgreementView]:
        """The agreements that the manager shows this party."""
        from perunml.client import agreements

        return agreements.listed(self.connection)

    def agreement(self, wanted: str) -> tuple[AgreementView, Agreement]:
        """An agreement by digest or name: the manager's view, and the document itself."""
        from perunml.client import agreements

        return agreements.show(self.connection, wanted)

    def approve(self, digest: str) -> AgreementView:
        """Approve exactly the document of this digest, for this party."""
        from perunml.client import agreements

        view, document = agreements.show(self.connection, digest)
        return agreements.approve(self.connection, self.home, self.identity, document, view.agreement)

    def party_in(self, agreement: Agreement) -> str:
        """What an agreement calls this party. Raises `AgreementRefusal` (no_key_of_a_party)."""
        from perunml.client import agreements

        return agreements.party_of(agreement, self.identity)

    def suspend(self, asset: str, *, agreement: str = "", lift: bool = False) -> SuspensionView:
        """Stop every use of an own asset (a digest, or its name in an agreement) and of what was derived from it, at once;
        or, with `lift`, allow it again: that takes the owner's board, where suspending takes one key."""
        from perunml.client import agreements

        return agreements.suspend(self.connection, self.identity, asset, agreement=agreement, lift=lift)

    # Runs

    def submit(
        self,
        agreement: str,
        job: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        assets: Mapping[str, str] | None = None,
    ) -> RunView:
        """Ask for one run of a job; `assets` pins digests by name."""
        from perunml.client import agreements, runs

        digest = agreements.resolve(self.connection, agreement)
        return runs.submit(self.connection, self.identity, digest, job, parameters or {}, assets=assets)

    def run(self, run: str) -> RunView:
        """A run: its state, where it ran, why it was refused, what came out, its receipt."""
        from perunml.client import runs

        return runs.show(self.connection, run)

    def runs(self, agreement: str = "") -> list[RunView]:
        """The runs that this party may see, of one agreement or of all."""
        from perunml.client import agreements, runs

        return runs.listed(self.connection, agreements.resolve(self.connection, agreement) if agreement else "")

    def explain(self, host: str) -> list[HostView]:
        """Why a host was refused last, under each agreement of this party: by its operator's name for it, or by its
        machine's id. `evidence.mend.mends` says what would admit it. Raises `AgreementRefusal` (not_entitled): unknown, or
        neither this party's own nor refused under an agreement of its."""
        from urllib.parse import quote

        from perunml.api.hosts import HostList

        return self.connection.call("GET", f"/v1/hosts/{quote(host, safe='')}", HostList).hosts

    def wait(
        self, run: str, *, timeout: float | None = None, watch: Callable[[RunView], None] | None = None
    ) -> RunView:
        """The run once it ended, or once it is a service that answers. `client.runs.failure` says what went wrong."""
        from perunml.client import runs

        return runs.wait(self.connection, run, timeout=timeout, watch=watch)

    # Outputs

    def outputs(self, agreement: str = "") -> list[tuple[RunView, OutputView]]:
        """Outputs of the runs that this party may see, of one agreement or of all, each with its run."""
        return [(view, output) for view in self.runs(agreement) for output in view.outputs]

    def approve_output(self, run: str, output: str) -> OutputView:
        """Sign that an output may leave as the agreement says."""
        from perunml.client import agreements, outputs

        view = self.run(run)
        _, document = agreements.show(self.connection, view.agreement)
        return outputs.approve(self.connection, self.identity, view.run, output, self.party_in(document))

    def pull(self, run: str, output: str, target: PathLike, *, progress: Progress | None = None) -> Pulled:
        """Unpack an output into a new folder, after checking that receipt, manifest and bytes belong together."""
        from perunml.client import outputs

        return outputs.pull(self.connection, self.home, self.identity, run, output, Path(target), progress=progress)

    def infer(self, run: str, inputs: dict[str, Any], *, endpoint: str = "") -> tuple[dict[str, Any], ReceiptFile]:
        """Ask the service of `run`; the answer, and a receipt that anybody can check offline.

        With `endpoint` the manager need not answer, nor know this party: the service's certificate is its word, and the
        service itself says whether this party may ask. The party is then called what its identity is called. A dry run
        shows where the sealed inputs would go, and the inputs.
        """
        from perunml.client.infer import infer

        if self._dry_run:
            raise WouldSend("POST", f"{endpoint or self._endpoint(run)}/v1/infer", canonical(inputs))
        view, party = self._service(run, endpoint)
        return infer(self.identity, self.pin, view, inputs, endpoint=endpoint, party=party)

    def _endpoint(self, run: str) -> str:
        where = self.run(run).endpoint
        if not where:
            raise refuse(NOT_FOUND, "this run has no endpoint", expected="a running service", seen=run)
        return where

    def _service(self, run: str, endpoint: str) -> tuple[RunView, str]:
        try:
            view = self.run(run)
            party = self.agreement(view.agreement)[1].party_of(self.identity.signing.public.text)
        except (AgreementRefusal, Unreachable):
            if not endpoint:
                raise
            view, party = _unknown(run, endpoint), None
        if view.state != "running" and not endpoint:
            raise refuse(NO_OUTPUT, "this service does not run", expected="a running service", seen=view.state)
        return view, party or self.identity.name

    # Auditing

    def verify_ledger(self) -> Audit:
        """The manager's ledger only grew since this party last saw it, and holds its agreements' entries."""
        from perunml.client import agreements, audit

        known = [view.digest for view in agreements.listed(self.connection)]
        return audit.verify_ledger(self.connection, self.home, known)

    def verify_receipt(self, data: bytes) -> dict[str, Any]:
        """A receipt's body, every signature checked against the pinned manager; offline."""
        from perunml.client import audit

        return audit.verify_receipt_file(data, self.pin)


def _unknown(run: str, endpoint: str) -> RunView:
    """A run of which nothing is known but its id: what it is, its certificate must say."""
    from perunml.api.runs import RunView

    return RunView(
        run=run,
        agreement="",
        job="",
        state="running",
        requested_by="",
        parameters={},
        host="",
        simulated=False,
        reasons=[],
        outputs=[],
        receipt=None,
        endpoint=endpoint,
        lease_until="",
    )
