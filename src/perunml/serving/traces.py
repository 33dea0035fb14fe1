"""A service's requests as OpenTelemetry spans (`perunml[otel]`), each alone and made when it is over: with what `watch` allows as attributes, and no context of a client's."""

from __future__ import annotations

from typing import Any

from perunml.host.codes import HOST_UNFIT
from perunml.serving.watch import Seen, told
from perunml.wire.errors import refuse

NAME = "perunml.request"
_NS = 10**9


class Traces:
    """Sends spans by `exporter`, in the background; by default to an OTLP collector over HTTP."""

    def __init__(self, endpoint: str = "", exporter: Any = None) -> None:
        """`endpoint` is the collector's address for traces, ``http://127.0.0.1:4318/v1/traces``. Raises `UsageError` (host_unfit): OpenTelemetry is not installed."""
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            if exporter is None:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

                exporter = OTLPSpanExporter(endpoint=endpoint)
        except ImportError:
            raise refuse(
                HOST_UNFIT, "OpenTelemetry is not installed on this host", expected="pip install 'perunml[otel]'"
            ) from None
        # Not Resource.create: that would add what the environment and the machine say of themselves.
        self._provider = TracerProvider(resource=Resource({"service.name": "perunml-service"}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("perunml")

    def seen(self, seen: Seen) -> None:
        """One request that is over."""
        end = int(seen.ended * _NS)
        span = self._tracer.start_span(NAME, start_time=end - int(seen.seconds * _NS), attributes=told(seen))
        span.end(end)

    def stop(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
