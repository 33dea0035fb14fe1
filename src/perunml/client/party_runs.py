"""`Client`: runs, what they put out, and services."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perunml.client.codes import NO_OUTPUT, NOT_FOUND
from perunml.client.connection import WouldSend
from perunml.client.party import PathLike
from perunml.client.party_agreements import Agreements
from perunml.wire.canonical import canonical
from perunml.wire.errors import AgreementRefusal, Unreachable, refuse

if TYPE_CHECKING:
    from perunml.api.enrolment import Enrolled
    from perunml.api.hosts import HostView
    from perunml.api.inference import ReceiptFile
    from perunml.api.runs import OutputView, RunView
    from perunml.api.why import Why
    from perunml.client.assets import Progress
    from perunml.client.infer import Prediction
    from perunml.client.outputs import Pulled
    from perunml.client.proxy import Proxy
    from perunml.client.tunnel import Tunnel


class Runs(Agreements):
    """Submit, watch, pull, serve, ask."""

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

    def enrol_host(
        self,
        address: str,
        name: str,
        *,
        cleared: bool = False,
        revocations: Sequence[bytes] = (),
        ak_certificate: bytes = b"",
        ak_chain: Sequence[bytes] = (),
    ) -> Enrolled:
        """As its operator, enrol the machine that waits for it at `address` (HOST:PORT; `host.boot`): this key stays here, the
        machine's stays there. The rest is as for `operators.enrol`. Raises what the machine or the manager refuses."""
        from perunml.api.enrolment import AtHost
        from perunml.client.enrolling import HostDoor, enrol_at

        asked = AtHost(
            name=name,
            cleared=cleared,
            revocations=list(revocations),
            ak_certificate=ak_certificate,
            ak_chain=list(ak_chain),
        )
        with HostDoor(address, self.identity.signing) as door:
            return enrol_at(door, self.connection, asked)

    def host_boot_log(self, address: str) -> bytes:
        """As its operator, the boot log of the machine at `address` (HOST:PORT), as its kernel keeps it: what golden values of its firmware
        are made with. The machine's own word. Raises what the machine refuses."""
        from perunml.client.enrolling import HostDoor

        with HostDoor(address, self.identity.signing) as door:
            return door.boot_log()

    def why(self, what: str) -> Why:
        """Everything that stands in the way of a run (its id) or of a job (``agreement/job``), at once: whose approval is missing,
        what is suspended, which limits, conditions, witnesses or hosts; for the agreement's parties."""
        from perunml.client import why

        return why.why(self.connection, what)

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
        """The run once it ended, or once it is a service that answers. `client.runs.failure` says what went wrong. While it
        waits, this party witnesses the ledger."""
        from perunml.client import runs

        connection = self.connection

        def pause(seconds: float) -> None:
            self._glance(connection)
            time.sleep(seconds)

        return runs.wait(connection, run, timeout=timeout, watch=watch, sleep=pause)

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

    def serve(
        self, agreement: str, job: str = "", *, another: bool = False, timeout: float | None = None,
        watch: Callable[[RunView], None] | None = None,
    ) -> RunView:  # fmt: skip
        """A run of the service `job` that answers: one that does already, or (`another`: in any case) a new one, waited for. Without a `job` the agreement's only service is
        meant. Raises `UsageError` (not_found): no such service, `ApprovalPending` (not_finished) after `timeout` seconds, and as `submit`."""
        from perunml.agreements.jobs import ServiceJob
        from perunml.client import runs

        view, document = self.agreement(agreement)
        services = [name for name, found in document.jobs.items() if isinstance(found, ServiceJob)]
        name = job or (services[0] if len(services) == 1 else "")
        if name not in services:
            raise refuse(
                NOT_FOUND,
                "no such service in the agreement",
                expected=", ".join(services) or "a service",
                seen=job or "none named",
            )
        found = None if another else runs.answering(self.connection, view.digest, name)
        return found or self.wait(self.submit(view.digest, name).run, timeout=timeout, watch=watch)

    def service(self, name: str) -> str:
        """A service's run: `name` itself, or of ``agreement/job`` the newest that answers. Raises `UsageError` (not_found)."""
        from perunml.client import agreements, runs

        agreement, slash, job = name.rpartition("/")
        if not slash:
            return name
        found = runs.answering(self.connection, agreements.resolve(self.connection, agreement), job)
        if found is None:
            raise refuse(
                NOT_FOUND, "no run of this service answers now", expected="a running service", seen=name,
                command=f"perunml serve {agreement} {job}",
            )  # fmt: skip
        return found.run

    def infer(self, run: str, inputs: dict[str, Any], *, endpoint: str = "") -> Prediction:
        """Ask the service of `run` (or ``agreement/job``): outputs, and a receipt that anybody can check offline. `inputs` are nested lists of numbers by name, or an Open Inference Protocol request.

        With `endpoint` the manager need not answer, nor know this party: the service's certificate is its word, and the
        service itself says whether this party may ask. The party is then called what its identity is called. A dry run
        shows where the sealed inputs would go, and the inputs.
        """
        from perunml.client.infer import infer

        if self._dry_run:
            raise WouldSend("POST", f"{endpoint or self._endpoint(run)}/v1/sealed", canonical(inputs))
        with self.tunnel(run, endpoint=endpoint) as tunnel:
            return infer(tunnel, inputs)

    def tunnel(self, run: str, *, endpoint: str = "", pad: bool = False) -> Tunnel:
        """HTTP requests to the service of `run`, sealed end to end: `Tunnel.ask`. Its certificate is checked before anything is sent. With `endpoint` as
        `infer`; `pad` hides lengths, up to an eighth."""
        from perunml.client.tunnel import Service, Tunnel

        view, party = self._service(run, endpoint)
        return Tunnel(
            self.identity, self.pin, Service(endpoint or view.endpoint, view.agreement, view.run), party=party, pad=pad
        )

    def proxy(
        self, run: str, *, listen: str = "127.0.0.1:0", endpoint: str = "", pad: bool = False,
        listen_beyond_this_machine: bool = False, on_receipt: Callable[[ReceiptFile], None] = lambda receipt: None,
    ) -> Proxy:  # fmt: skip
        """A plain HTTP server on this machine (`Proxy.url`) for clients of the Open Inference Protocol: what they ask goes sealed to the service of `run`. Its certificate is
        checked first. Call `Proxy.serve`. Raises as `infer`, and `UsageError` (listen_refused)."""
        from perunml.client.proxy import Proxy

        tunnel = self.tunnel(run, endpoint=endpoint, pad=pad)
        try:
            tunnel.check()
            return Proxy(tunnel, listen, beyond_this_machine=listen_beyond_this_machine, on_receipt=on_receipt)
        except BaseException:
            tunnel.close()
            raise

    def _endpoint(self, run: str) -> str:
        where = self.run(self.service(run)).endpoint
        if not where:
            raise refuse(NOT_FOUND, "this run has no endpoint", expected="a running service", seen=run)
        return where

    def _service(self, run: str, endpoint: str) -> tuple[RunView, str]:
        try:
            view = self.run(self.service(run))
            party = self.agreement(view.agreement)[1].party_of(self.identity.signing.public.text)
        except (AgreementRefusal, Unreachable):
            if not endpoint:
                raise
            view, party = _unknown(run, endpoint), None
        if view.state != "running" and not endpoint:
            raise refuse(NO_OUTPUT, "this service does not run", expected="a running service", seen=view.state)
        return view, party or self.identity.name


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
