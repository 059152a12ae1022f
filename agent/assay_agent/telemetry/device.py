"""One GPU in the driver: everything that is read of it, as deep as asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from assay_agent.machine import sleep
from assay_agent.telemetry import gpm
from assay_agent.telemetry.ask import ask, batch, entries, samples, why
from assay_agent.telemetry.calls import Call, LinkEntry
from assay_agent.telemetry.fields import admit
from assay_agent.telemetry.mig import Mig
from assay_agent.telemetry.reading import Depth, Sample
from assay_agent.telemetry.table import (
    CALLS,
    ENTRIES,
    GPM,
    LINKS,
    MIG_METRICS,
    NVLINK_SPEED,
    NVLINK_STATE,
    NVLINK_UP,
)
from assay_agent.telemetry.tick import CELLS, Tick
from assay_agent.telemetry.wire import Reading, cells
from assay_core.leaves import Group, Reason

_NVLINK_COUNT: Final = next(entry for entry in ENTRIES if entry.field.name == "nvlink_count")
_PCI: Final = Call(Group.IDENTITY, "nvmlDeviceGetPciInfo_v3", (), "36x32s")
_GPM_LIMITS: Final = tuple(field.high + 0.5 for _, field in GPM)
"""What is above these before it is rounded half up cannot be."""


class Questions:
    """What is asked about GPM: one after another, so that all GPUs share the memory of it."""

    def __init__(self) -> None:
        self.gpu = gpm.Metrics([metric for metric, _ in GPM])
        self.instance = gpm.Metrics(MIG_METRICS)


class Device:
    """A GPU, its handle, and what is kept of it from look to look."""

    def __init__(
        self, handle: object, uuid: str, questions: Questions, beat: Callable[[], None]
    ) -> None:
        self.handle = handle
        self.uuid = uuid
        self.mig = Mig(handle)
        self.tick = Tick(handle, self.mig.read_mode)
        self.reset_required = False
        self.was_reset = False
        """It asked for a reset at the look before, and does no more."""
        self._reset_required = False
        self.mig_flipped = False
        """MIG mode was found to be another than at the last look."""
        self.bus_id = ""
        self.may_sleep = False
        """The kernel manages its power: whether it sleeps is looked at before each look."""
        self._questions = questions
        self._beat = beat
        self._sampler: gpm.Sampler | None = None
        self._no_gpm: Reason = Reason.NOT_SUPPORTED
        self._links = 0
        self._why_no_links: Reason = Reason.NOT_SUPPORTED

    def prime(self) -> None:
        """What has to be known before the first look. Raises GoneError and LostError."""
        answer = ask(_PCI, self.handle)
        if not isinstance(answer, int) and isinstance(answer[0], bytes):
            self.bus_id = answer[0].partition(b"\0")[0].decode("ascii", "replace")
        has_gpm = gpm.supported(self.handle)
        if has_gpm is True:
            self._sampler = gpm.Sampler(self.handle)
            self._sampler.take()
            self.mig.prime()
        elif has_gpm is not False:
            self._no_gpm = why(has_gpm, False)
        self._count_links()

    def wait_s(self) -> float:
        """How long until every performance sample can be followed by another."""
        mine = self._sampler.wait_s() if self._sampler is not None else 0.0
        return max(mine, self.mig.wait_s())

    def watch_sleep(self, root: str) -> None:
        """Looks whether the kernel manages its power now."""
        self.may_sleep = bool(self.bus_id) and sleep.may_sleep(root, self.bus_id)

    def read(self, depth: Depth) -> Reading:
        """Everything up to this depth. Raises GoneError and LostError."""
        was_on = self.mig.on
        ticks, absent = self.tick.read()
        self.was_reset = self._reset_required and not self.tick.reset_required
        self._reset_required = self.tick.reset_required
        if self._sampler is None:
            absent = [*absent, *self._no_metrics(int(self._no_gpm))]
            ticks = [*ticks, *(0 for _ in GPM)]
        else:
            values, missing = self._metrics(self._sampler)
            ticks += values
            absent = absent + missing if missing else absent
        deeper: list[Sample] = []
        if depth >= Depth.WINDOW:
            deeper += self._level(Depth.WINDOW)
            deeper.append(self.mig.read(self._questions.instance))
        if depth >= Depth.DAY:
            deeper += self._level(Depth.DAY)
        self.mig_flipped = self.mig.on != was_on
        if self.mig_flipped:
            self.tick.forget()
        absent = absent.copy() if deeper else absent
        return ticks, cells(deeper, len(ticks), absent), absent

    def free(self) -> None:
        """Gives back what the library holds for it."""
        self.mig.free()
        if self._sampler is not None:
            self._sampler.free()

    def _level(self, depth: Depth) -> list[Sample]:
        """The fields that are first read at this depth, but for those of instances."""
        mig_mode = self.mig.read_mode()
        self._beat()
        result = entries(_ENTRIES[depth], self.handle, mig_mode, self._beat)
        for call in _CALLS[depth]:
            self._beat()
            result += samples(call, self.handle, mig_mode)
        if depth is Depth.DAY:
            self._count_links()
        self._beat()
        return result + self._nvlinks(_LINKS[depth])

    def _metrics(self, sampler: gpm.Sampler) -> tuple[list[int], list[int]]:
        """Each metric's value or 0, and the place and Reason of each that has none."""
        if sampler.wait_s() > 0:
            return [0] * len(GPM), self._no_metrics(0)
        answer = sampler.measure(self._questions.gpu)
        if answer is None:
            return [0] * len(GPM), self._no_metrics(0)
        if isinstance(answer, int):
            return [0] * len(GPM), self._no_metrics(int(why(answer, self.mig.read_mode())))
        codes, values = answer
        found = [
            int(value + 0.5) if 0 <= value < limit else None
            for value, limit in zip(values, _GPM_LIMITS, strict=True)
        ]
        if any(codes) or None in found:
            return self._some(found, codes)
        return found, []  # type: ignore[return-value]  # none of them is None

    def _some(
        self, found: Sequence[int | None], codes: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """As above, where a metric has its own code, or is no number, or an absurd one."""
        missing: list[int] = []
        for place, (value, code) in enumerate(zip(found, codes, strict=True), CELLS):
            if code != 0:
                missing += (place, int(why(code, self.mig.on)))
            elif value is None:
                missing += (place, int(Reason.INVALID_VALUE))
        return [
            value if value is not None and code == 0 else 0
            for value, code in zip(found, codes, strict=True)
        ], missing

    @staticmethod
    def _no_metrics(number: int) -> list[int]:
        return [part for place in range(len(GPM)) for part in (CELLS + place, number)]

    def _count_links(self) -> None:
        (count,) = entries((_NVLINK_COUNT,), self.handle, False, self._beat)
        if isinstance(count, Reason):
            self._links, self._why_no_links = 0, count
        else:
            self._links, self._why_no_links = (
                count if isinstance(count, int) else 0,
                Reason.NOT_SUPPORTED,
            )

    def _nvlinks(self, links: Sequence[LinkEntry]) -> list[Sample]:
        """A tuple by link for each field; a Reason where any link that is up has no value.

        A link that is down has no speed: 0, and its state says so.
        """
        if not self._links:
            return [self._why_no_links for _ in links]
        asked = [NVLINK_STATE, *(link.field_id for link in links)]
        scopes = range(self._links)
        answers = batch(self.handle, [(field_id, scope) for field_id in asked for scope in scopes])
        states = answers[: self._links]
        result: list[Sample] = []
        for place, link in enumerate(links, 1):
            mine = answers[place * self._links : (place + 1) * self._links]
            result.append(_by_link(link, mine, states))
        return result


def _by_link(
    link: LinkEntry,
    answers: Sequence[tuple[int, object]],
    states: Sequence[tuple[int, object]],
) -> Sample:
    found: list[int] = []
    for (code, raw), (state_code, state) in zip(answers, states, strict=True):
        up = NVLINK_UP.get(state, None) if isinstance(state, int) and state_code == 0 else None
        if link.field_id == NVLINK_STATE and code == 0:
            raw = Reason.INVALID_VALUE if up is None else up
        elif link.field_id == NVLINK_SPEED and up == 0:
            code, raw = 0, 0
        sample = why(code, False) if code != 0 else admit(link.field, raw)
        if not isinstance(sample, int) or isinstance(sample, Reason):
            return sample
        found.append(sample)
    return tuple(found)


_DEEPER: Final = (Depth.WINDOW, Depth.DAY)
_ENTRIES: Final = {
    depth: tuple(entry for entry in ENTRIES if entry.depth is depth) for depth in _DEEPER
}
_CALLS: Final = {depth: tuple(call for call in CALLS if call.depth is depth) for depth in _DEEPER}
_LINKS: Final = {depth: tuple(link for link in LINKS if link.depth is depth) for depth in _DEEPER}
