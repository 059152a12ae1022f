"""One GPU over the period of a window: its samples, its events, its incidents (rules: window.py)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from assay_agent.admission import U32_MAX, reason_of
from assay_agent.energy import LifetimeEnergy
from assay_agent.events import Events
from assay_agent.fields import Field, counter_code, field_of, read_names, values_of
from assay_agent.known import Energy, Known, Told, travels
from assay_agent.telemetry.reading import GpuReading
from assay_core import health
from assay_core.health import HealthState
from assay_core.leaves import ON_CHANGE, Content, EventKind, Group, Incident, Reason, Value

_OF_GPU: Final = (Group.IDENTITY, Group.HEALTH, Group.USE, Group.CONDITION)
_REACHING: Final = tuple(
    name
    for group in (Group.HEALTH, Group.USE)
    for name in read_names(group)
    if name != "tenancy"  # the bus tells it, not the GPU
)
"""Fields that only a GPU that was reached can give."""
_CODES: Final = MappingProxyType(
    {name: counter_code(group, name) for group in _OF_GPU for name in read_names(group)}
)


class GpuPeriod:
    """One GPU over the period."""

    def __init__(self, known: Known) -> None:
        self.subject = known.subject
        self.last_seen_ms = known.last_seen_ms
        self.events = Events()
        self._told = dict(known.told)
        self._health = known.health
        self._polls = 0
        self._reason: Reason = Reason.NOT_SAMPLED
        self._groups: dict[Group, dict[str, Field]] = {
            group: {name: field_of(group, name) for name in read_names(group)} for group in _OF_GPU
        }
        self._fields = [field for fields in self._groups.values() for field in fields.values()]
        self._add = {
            name: field.add for fields in self._groups.values() for name, field in fields.items()
        }
        self._energy = (
            LifetimeEnergy(None, None)
            if known.energy is None
            else LifetimeEnergy(
                known.energy.total_mj,
                known.energy.lifetime_mj,
                same_boot=known.energy.same_boot,
            )
        )

    def add(self, reading: GpuReading, at_utc_ms: int) -> Reason | None:
        """Takes one reading; None where it reached the GPU, else why it did not."""
        values, add = reading.values, self._add
        for name, sample in values.items():
            if add[name](sample):
                self.events.add(EventKind.COUNTER_FELL, _CODES[name], at_utc_ms)
        self._energy.add(values.get("energy_mj"))
        for name in _REACHING:
            found = values.get(name)
            if found is None:
                continue
            if found.__class__ is not Reason:
                self._polls += 1
                self.last_seen_ms = max(self.last_seen_ms, at_utc_ms)
                return None
            self._reason = reason_of(found)
        if values:
            self.unwatched()
        return self._reason

    def miss(self, reason: Reason) -> None:
        """Takes a poll that did not reach the GPU."""
        self._reason = reason
        self.unwatched()
        for field in self._fields:
            field.add(reason)

    def reloaded(self) -> None:
        """The driver was loaded anew."""
        self._energy.reloaded()
        for field in self._fields:
            field.anew()

    def unwatched(self) -> None:
        """The driver may have been loaded anew, or the GPU reset."""
        self._energy.unwatched()
        for field in self._fields:
            field.anew()

    def tell_again(self) -> None:
        """See Aggregator."""
        self._told.clear()

    def draft(
        self, host: Content, *, at_utc_ms: int, at_boottime_ms: int, boot_id: bytes
    ) -> tuple[list[Content], Known]:
        """Its leaves: identity where it travels, health, use, condition where it travels."""
        told = dict(self._told)
        slow: dict[Group, Content] = {}
        for group, fields in self._groups.items():
            if group in ON_CHANGE and self._polls:
                values = values_of(fields)
                if travels(told.get(group), values, at_boottime_ms):
                    slow[group] = Content(self.subject, group, values)
                    told[group] = Told(values, at_boottime_ms)
        seen = self._health_content(())
        state = health.follow(
            self._health,
            health.observe(
                host,
                seen,
                slow.get(Group.CONDITION),
                at_ms=at_utc_ms,
                boot_id=boot_id,
                identity=slow.get(Group.IDENTITY),
            ),
            health.DEFAULT,
        )
        leaves = {
            Group.IDENTITY: slow.get(Group.IDENTITY),
            Group.HEALTH: self._health_content(health.told(state)),
            Group.USE: Content(self.subject, Group.USE, self._usevalues_of()),
            Group.CONDITION: slow.get(Group.CONDITION),
        }
        found = [content for content in leaves.values() if content is not None]
        return found, self.known(told, state)

    def known(
        self, told: Mapping[Group, Told] | None = None, state: HealthState | None = None
    ) -> Known:
        """What to remember of it."""
        energy = self._energy
        return Known(
            self.subject,
            self.last_seen_ms,
            self._told if told is None else told,
            None
            if energy.total_mj is None or energy.lifetime_mj is None
            else Energy(energy.total_mj, energy.lifetime_mj),
            self._health if state is None else state,
        )

    def restart(self, known: Known, *, told: bool) -> None:
        """Begins the next period, remembering what was sealed."""
        self._told = dict(known.told)
        self._health = known.health
        self._polls = 0
        self._reason = Reason.NOT_SAMPLED
        for field in self._fields:
            field.restart()
        if told:
            self.events.restart()

    def _health_content(self, incidents: tuple[Incident, ...]) -> Content:
        values = values_of(self._groups[Group.HEALTH])
        values["polls"] = min(self._polls, U32_MAX)
        # Where nothing was seen of a GPU, "no event" is not known either.
        values["events"] = self.events.value() if self._polls or self.events else self._reason
        values["incidents"] = incidents
        return Content(self.subject, Group.HEALTH, values)

    def _usevalues_of(self) -> dict[str, Value]:
        values = values_of(self._groups[Group.USE])
        counted = values["energy_mj"]
        values["energy_lifetime_mj"] = (
            counted
            if isinstance(counted, Reason) or self._energy.lifetime_mj is None
            else self._energy.lifetime_mj
        )
        return values
