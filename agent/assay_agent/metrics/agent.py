"""Every metric of the agent. Every label set is bounded."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import structlog

from assay_agent import VERSION
from assay_agent.config import MetricsConfig
from assay_agent.metrics import process, textfile
from assay_agent.metrics.readings import Draft, Readings
from assay_agent.metrics.server import Server
from assay_agent.metrics.text import Family, Kind, Metric, write
from assay_core.errors import Refusal
from assay_core.header import CloseReason, Source
from assay_core.instants import SECOND_MS
from assay_core.leaves import DriverState, Reason

if TYPE_CHECKING:
    from assay_agent.known import Known
    from assay_agent.telemetry.reading import Poll


class UplinkState(enum.StrEnum):
    """What the uplink is doing; the label of assay_agent_uplink_state."""

    CONNECTED = "connected"
    CONNECTING = "connecting"
    REFUSED = "refused"
    FORKED = "forked"
    DENIED = "denied"


_REFUSALS: Final = frozenset(str(reason) for reason in Refusal)
_NOT_JUDGED: Final = frozenset({"unavailable", "unknown_challenge", "late"})
"""Outcomes of evidence that say nothing of it: a valuer that restarted or is busy gives them too."""
_HOST_COUNTS: Final = {
    "gpu_count": ("gpus", "GPUs that the driver enumerated at the last poll"),
    "pci_gpu_count": ("pci_gpus", "NVIDIA GPUs on the PCI bus at the last look"),
    "hidden_gpus": ("hidden_gpus", "GPUs on the PCI bus that the driver has and does not show"),
    "phantom_gpus": ("phantom_gpus", "GPUs that the driver shows and that are not on the PCI bus"),
}
"""Host fields that are a number, or a list whose length is one: metric and meaning."""


class AgentMetrics:
    """The agent's own numbers, the GPUs' readings, and how both are published."""

    def __init__(self, source: Source, settings: MetricsConfig | None = None) -> None:
        self._settings = settings or MetricsConfig()
        self._log = structlog.get_logger("metrics")
        self._textfile_fails = False
        self._own: list[Metric] = []
        self._readings = Readings(dcgm_names=self._settings.dcgm_names)
        self._gauge(
            "build_info",
            "Always 1; the labels say which version runs and where its readings come from",
            "version",
            "source",
        ).labels(VERSION, source.name.lower()).set(1)
        self._add_driver()
        self._add_windows()
        self._add_uplink()
        self.set_uplink(UplinkState.CONNECTING)

    def _add_driver(self) -> None:
        self.polls = self._counter("polls", "Polls of the host's GPUs")
        self._last_poll = self._gauge(
            "last_poll_timestamp_seconds", "When the GPUs were last polled, seconds since 1970"
        )
        self.driver = self._gauge(
            "driver_state", "1 for the state in which the last poll found the driver", "state"
        )
        self._host = {
            field: self._gauge(name, words) for field, (name, words) in _HOST_COUNTS.items()
        }
        self.missing_gpus = self._gauge(
            "missing_gpus",
            "GPUs once seen by this installation and not at the last poll that was answered",
        )
        self.abandoned_processes = self._gauge(
            "abandoned_processes", "Driver processes left behind in a call that never returned"
        )

    def _add_windows(self) -> None:
        self.sealed = self._counter(
            "windows_sealed", "Windows sealed and durable, by why they were closed", "close_reason"
        )
        for reason in CloseReason:
            self.sealed.labels(reason.name.lower())
        self.seal_failures = self._counter(
            "seal_failures",
            "Windows that could not be sealed because the spool took no write; their period goes on",
        )
        self.last_sealed = self._gauge(
            "last_sealed_timestamp_seconds", "When the last window was sealed, seconds since 1970"
        )
        self.spool_bytes = self._gauge("spool_bytes", "Bytes in use in the spool")
        self.unacknowledged = self._gauge(
            "unacknowledged_windows", "Windows that the valuer has not acknowledged"
        )
        self.dropped = self._counter(
            "windows_dropped",
            "Windows the full spool dropped before they were acknowledged; a gap record says so",
        )
        self.acknowledged = self._counter(
            "windows_acknowledged", "Windows and gap records the valuer acknowledged as durable"
        )
        self.last_acknowledged = self._gauge(
            "last_acknowledged_timestamp_seconds",
            "When the valuer last acknowledged a window, seconds since 1970",
        )

    def _add_uplink(self) -> None:
        self.uplink = self._gauge(
            "uplink_state",
            "1 for what the uplink is doing, else 0; forked and denied need a person",
            "state",
        )
        self.connections = self._counter(
            "uplink_connections", "Streams on which the valuer said Welcome"
        )
        self.evidence = self._counter(
            "evidence_answers",
            "Answers to challenges for evidence: accepted, refused, or not judged by the valuer",
            "result",
        )
        for result in ("accepted", "refused", "not_judged"):
            self.evidence.labels(result)
        self.refusals = self._counter(
            "refusals", "Windows the valuer refused, by its reason", "reason"
        )
        self.certificate_expiry = self._gauge(
            "certificate_expiry_timestamp_seconds",
            "When the client certificate expires, seconds since 1970",
        )
        self.renewal_failures = self._counter(
            "renewal_failures", "Attempts to renew the client certificate that failed"
        )
        self.clock_offset = self._gauge(
            "clock_offset_seconds", "The valuer's clock less this host's, as of the last connection"
        )

    def _counter(self, name: str, words: str, *labels: str) -> Metric:
        return self._add(Kind.COUNTER, name, words, labels)

    def _gauge(self, name: str, words: str, *labels: str) -> Metric:
        return self._add(Kind.GAUGE, name, words, labels)

    def _add(self, kind: Kind, name: str, words: str, labels: tuple[str, ...]) -> Metric:
        unit = name.rpartition("_")[2]
        unit = unit if unit in ("seconds", "bytes") else ""
        metric = Metric(Family(f"assay_agent_{name}", kind, words, unit), labels)
        self._own.append(metric)
        return metric

    def take(self, poll: Poll) -> None:
        """Takes what a poll saw of the host and its GPUs."""
        self.polls.inc()
        self._last_poll.set(poll.at_utc_ms / SECOND_MS)
        self.abandoned_processes.set(poll.abandoned_processes)
        for each in DriverState:
            self.driver.labels(each.name.lower()).set(each is poll.driver)
        for name, metric in self._host.items():
            sample = poll.host.get(name)
            if isinstance(sample, tuple):
                metric.set(len(sample))
            elif isinstance(sample, Reason):
                metric.value = None
            elif isinstance(sample, int):
                metric.set(sample)
        self._readings.take(poll)

    def know(self, known: Iterable[Known]) -> None:
        """Shows the GPUs of earlier windows too: one that is missing at this start has a name."""
        self._readings.know(known)

    def sealed_window(self, draft: Draft) -> None:
        """Takes what only a window knows (incidents, lifetime energy), and writes the textfile."""
        self._readings.sealed_window(draft)
        path = self._settings.textfile
        if path is None:
            return
        try:
            textfile.replace(path, self.pages(openmetrics=False))
        except OSError as error:
            if not self._textfile_fails:  # once, and not at every window
                self._log.error("textfile", detail=f"metrics.textfile: {path}: {error}")
            self._textfile_fails = True
        else:
            self._textfile_fails = False

    def set_uplink(self, state: UplinkState) -> None:
        """Shows what the uplink is doing."""
        for each in UplinkState:
            self.uplink.labels(each.value).set(each is state)

    def count_refusal(self, reason: str) -> None:
        """Counts a refusal; a reason this version does not know is counted as "other"."""
        self.refusals.labels(reason if reason in _REFUSALS else "other").inc()

    def count_evidence(self, outcome: str) -> None:
        """Counts an answer to a challenge; why one was not accepted, the log has."""
        result = "not_judged" if outcome in _NOT_JUDGED else "refused"
        self.evidence.labels("accepted" if outcome == "accepted" else result).inc()

    def pages(self, *, openmetrics: bool) -> Iterator[str]:
        """All of it as text, a family at a time."""
        for metric in self._own:
            yield write(metric.family, metric.rows(), openmetrics=openmetrics)
        for family, rows in process.families():
            yield write(family, rows, openmetrics=openmetrics)
        for family, found in self._readings.families():
            yield write(family, found, openmetrics=openmetrics)
        if openmetrics:
            yield "# EOF\n"

    async def serve(self) -> asyncio.Server | None:
        """Listens where the configuration says; None where it says nowhere.

        Raises FileError for an address or a certificate that does not hold, ServiceError where the
        port is taken.
        """
        if self._settings.listen is None:
            return None
        return await Server(self._settings, self.pages).start()
