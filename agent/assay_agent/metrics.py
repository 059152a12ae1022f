"""The agent's own metrics, on loopback unless told otherwise. Every label set is bounded."""

from __future__ import annotations

import enum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, start_http_server

from assay_agent import VERSION
from assay_core.errors import FileError, Refusal, ServiceError
from assay_core.header import CloseReason, Source
from assay_core.leaves import DriverState


class UplinkState(enum.StrEnum):
    """What the uplink is doing; the label of assay_agent_uplink_state."""

    CONNECTED = "connected"
    CONNECTING = "connecting"
    REFUSED = "refused"
    FORKED = "forked"
    DENIED = "denied"


_REFUSALS: Final = frozenset(str(reason) for reason in Refusal)


class AgentMetrics:
    """Every metric of the agent, in a registry of its own."""

    def __init__(self, source: Source) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Gauge(
            "assay_agent_build_info",
            "Always 1; the labels say which version runs and where its readings come from",
            ["version", "source"],
            registry=registry,
        ).labels(VERSION, source.name.lower()).set(1)
        self._add_driver(registry)
        self._add_windows(registry)
        self._add_uplink(registry)

    def _add_driver(self, registry: CollectorRegistry) -> None:
        self.polls = Counter("assay_agent_polls", "Polls of the host's GPUs", registry=registry)
        self.driver = Gauge(
            "assay_agent_driver_state",
            "1 for the state in which the last poll found the driver, else 0",
            ["state"],
            registry=registry,
        )
        self.gpus = Gauge(
            "assay_agent_gpus",
            "GPUs that the driver enumerated at the last poll",
            registry=registry,
        )
        self.missing_gpus = Gauge(
            "assay_agent_missing_gpus",
            "GPUs once seen by this installation and not at the last poll that was answered",
            registry=registry,
        )
        self.abandoned_processes = Gauge(
            "assay_agent_abandoned_processes",
            "Driver processes left behind in a call that never returned",
            registry=registry,
        )

    def _add_windows(self, registry: CollectorRegistry) -> None:
        self.sealed = Counter(
            "assay_agent_windows_sealed",
            "Windows sealed and durable, by why they were closed",
            ["close_reason"],
            registry=registry,
        )
        for reason in CloseReason:
            self.sealed.labels(reason.name.lower())
        self.seal_failures = Counter(
            "assay_agent_seal_failures",
            "Windows that could not be sealed because the spool took no write; their period goes on",
            registry=registry,
        )
        self.last_sealed = Gauge(
            "assay_agent_last_sealed_timestamp_seconds",
            "When the last window was sealed, seconds since 1970",
            registry=registry,
        )
        self.spool_bytes = Gauge(
            "assay_agent_spool_bytes", "Bytes in use in the spool", registry=registry
        )
        self.unacknowledged = Gauge(
            "assay_agent_unacknowledged_windows",
            "Windows that the valuer has not acknowledged",
            registry=registry,
        )
        self.dropped = Counter(
            "assay_agent_windows_dropped",
            "Windows the full spool dropped before they were acknowledged; a gap record says so",
            registry=registry,
        )
        self.acknowledged = Counter(
            "assay_agent_windows_acknowledged",
            "Windows and gap records the valuer acknowledged as durable",
            registry=registry,
        )
        self.last_acknowledged = Gauge(
            "assay_agent_last_acknowledged_timestamp_seconds",
            "When the valuer last acknowledged a window, seconds since 1970",
            registry=registry,
        )

    def _add_uplink(self, registry: CollectorRegistry) -> None:
        self.uplink = Gauge(
            "assay_agent_uplink_state",
            "1 for what the uplink is doing, else 0; forked and denied need a person",
            ["state"],
            registry=registry,
        )
        self.connections = Counter(
            "assay_agent_uplink_connections",
            "Streams on which the valuer said Welcome",
            registry=registry,
        )
        self.refusals = Counter(
            "assay_agent_refusals",
            "Windows the valuer refused, by its reason",
            ["reason"],
            registry=registry,
        )
        self.certificate_expiry = Gauge(
            "assay_agent_certificate_expiry_timestamp_seconds",
            "When the client certificate expires, seconds since 1970",
            registry=registry,
        )
        self.renewal_failures = Counter(
            "assay_agent_renewal_failures",
            "Attempts to renew the client certificate that failed",
            registry=registry,
        )
        self.clock_offset = Gauge(
            "assay_agent_clock_offset_seconds",
            "The valuer's clock less this host's, as of the last connection",
            registry=registry,
        )
        self.set_uplink(UplinkState.CONNECTING)

    def set_driver(self, state: DriverState) -> None:
        """Shows the driver's state."""
        for each in DriverState:
            self.driver.labels(each.name.lower()).set(each is state)

    def set_uplink(self, state: UplinkState) -> None:
        """Shows what the uplink is doing."""
        for each in UplinkState:
            self.uplink.labels(each.value).set(each is state)

    def count_refusal(self, reason: str) -> None:
        """Counts a refusal; a reason this version does not know is counted as "other"."""
        self.refusals.labels(reason if reason in _REFUSALS else "other").inc()

    def serve(self, listen: str) -> None:
        """Serves the registry at "address:port" from a thread of its own, until the process ends.

        Raises FileError where `listen` is no such thing, ServiceError where the port is taken.
        """
        address, _, port = listen.rpartition(":")
        if not address or not port.isdigit():
            raise FileError(f"metrics.listen: {listen!r} is not address:port")
        try:
            start_http_server(int(port), address.strip("[]"), registry=self.registry)
        except (OSError, OverflowError) as error:
            raise ServiceError(f"metrics.listen: {listen} cannot be used: {error}") from error
