"""The incidents of one GPU while a window is followed: what may be done to them."""

from __future__ import annotations

from msgspec.structs import replace

from assay_core.health.observation import WELL
from assay_core.health.rules import Cure, Ends, Key, Rule, known, rule_for
from assay_core.health.state import (
    CLOSED_MAX,
    COUNT_MAX,
    ENDED_MAX,
    OPEN_MAX,
    HealthPolicy,
    Record,
)
from assay_core.instants import SECOND_MS
from assay_core.leaves import Incident, IncidentKind, Severity


class Incidents:
    """Open incidents by kind and code, and the ended ones. Lives for one step of the fold."""

    def __init__(
        self, records: tuple[Record, ...], policy: HealthPolicy, *, keep_fresh: bool = False
    ) -> None:
        self._open = {(one.kind, one.code): one for one in records if one.open}
        self._ended = [
            replace(one, fresh=False) if one.fresh and not keep_fresh else one
            for one in records
            if not one.open
        ]
        self._ended_of: dict[Key, list[Record]] = {}
        for one in self._ended:
            self._ended_of.setdefault((one.kind, one.code), []).append(one)
        self._touched: set[Key] = set()
        # Who tells of hundreds of restarts among hundreds of events must not cost their product.
        self._not_restarted: set[Key] = set(self._open)
        self._quiet_ms = policy.xid_quiet_s * SECOND_MS
        self._recurrence_ms = policy.xid_recurrence_s * SECOND_MS
        self._lost_ms = policy.lost_impaired_after_s * SECOND_MS
        self._rate_quiet_ms = policy.rate_quiet_s * SECOND_MS

    # ------------------------------------------------------------------------ what happened

    def occur(self, kind: IncidentKind, code: int, first_ms: int, last_ms: int, count: int) -> None:
        """It happened `count` times between these times."""
        rule = rule_for(kind, code)
        if rule.severity is None:
            return
        key = (kind, code)
        record = self._open.get(key)
        if record is not None:
            over_ms = self._over(record, rule, first_ms, here=False)
            if over_ms is not None:
                self.end(key, over_ms)
                record = None
        if record is None:
            record = Record(kind, code, rule.severity, first_ms, first_ms, None, 0, 0, 1, first_ms)
        days, day_ms = record.days, record.day_ms
        for at_ms in (first_ms, last_ms):
            apart = (at_ms - day_ms) // self._quiet_ms
            if apart > 0:
                days, day_ms = days + 1, day_ms + apart * self._quiet_ms
        record = replace(
            record,
            begin_ms=min(record.begin_ms, first_ms),
            last_ms=max(record.last_ms, last_ms),
            count=min(record.count + count, COUNT_MAX),
            days=days,
            day_ms=day_ms,
            restart_ms=None,
            booted=False,
            shown=True,
        )
        self._put(replace(record, severity=self._severity(record, rule)))

    def cancel(self, key: Key, at_ms: int) -> None:
        """What came before is over."""
        record = self._open.get(key)
        if record is not None and record.last_ms < at_ms:
            self.end(key, at_ms)

    def restart(self, at_ms: int, *, boot: bool) -> None:
        """GPU, driver or host came up anew: what is open has yet to show that it stands on."""
        for key in self._open.keys() if boot else self._not_restarted & self._open.keys():
            record = self._open[key]
            since_ms = at_ms if record.restart_ms is None else record.restart_ms
            self._open[key] = replace(
                record,
                restart_ms=max(since_ms, record.last_ms),
                booted=record.booted or boot,
            )
        self._not_restarted.clear()

    def untried(self) -> frozenset[Key]:
        """Open incidents that a restart should have cured and that were not seen since."""
        return frozenset(key for key, record in self._open.items() if _uncured(record))

    # ------------------------------------------------------------------------ what stands

    def stand(self, key: Key, at_ms: int, *, count: int = 0) -> None:
        """A reading shows it."""
        record = self._open.get(key)
        if record is None:
            severity = rule_for(*key).severity
            if severity is None:
                return
            record = Record(*key, severity, at_ms, at_ms, None, 1 - count, 0, 1, at_ms)
        self._put(
            replace(
                record,
                last_ms=max(record.last_ms, at_ms),
                count=min(record.count + count, COUNT_MAX),
                windows=record.windows + 1,
                shown=True,
            )
        )

    def settle_level(
        self,
        kind: IncidentKind,
        code: int | None,
        at_ms: int,
        *,
        same: bool,
        untried: frozenset[Key],
    ) -> None:
        """What a condition shows: its code, WELL, or nothing; `same`: as at the last reading."""
        for key, record in [one for one in self._open.items() if one[0][0] is kind]:
            if code is None and same and record.shown:
                code = record.code
            if code is None:
                if not same:
                    self._open[key] = replace(record, shown=False)
            elif code != record.code:
                self.end(key, at_ms)
            elif key in untried:
                self.worsen(key)
        if code is not None and code != WELL:
            self.stand((kind, code), at_ms)

    def settle_rate(self, kind: IncidentKind, shown: int | None, at_ms: int) -> None:
        """What a rate shows: 0 over the limit, WELL below it, None where none was taken."""
        key = (kind, 0)
        record = self._open.get(key)
        if shown == 0:
            self.stand(key, at_ms, count=1)
        elif shown is not None and record and at_ms - record.last_ms >= self._rate_quiet_ms:
            self.end(key, record.last_ms + self._rate_quiet_ms)

    def settle_event(self, key: Key, at_ms: int) -> None:
        """The GPU is there and the event has not come again: it may be over."""
        record = self._open[key]
        over_ms = self._over(record, rule_for(*key), at_ms, here=True)
        if over_ms is not None:
            self.end(key, over_ms)

    def count_window(self, key: Key, *, here: bool) -> None:
        """One more window that an event's incident has stood in."""
        record = self._open.get(key)
        if record is not None and (here or key in self._touched):
            self._open[key] = replace(record, windows=record.windows + 1)

    def worsen(self, key: Key) -> None:
        """It stands after what should have cured it, or for too long: impaired."""
        record = self._open.get(key)
        if record is not None:
            survived = record.survived or record.severity is not Severity.IMPAIRED
            self._open[key] = replace(record, severity=Severity.IMPAIRED, survived=survived)

    def worsen_after_loss(self, key: Key, at_ms: int) -> None:
        """A GPU that is gone for so long is impaired, whatever the reason."""
        record = self._open.get(key)
        if record is not None and at_ms - record.begin_ms >= self._lost_ms:
            self.worsen(key)

    def end(self, key: Key, at_ms: int) -> None:
        """It is over; never before it was last seen."""
        record = self._open.pop(key, None)
        if record is not None:
            self._end(
                replace(
                    record,
                    end_ms=max(at_ms, record.last_ms),
                    windows=max(1, record.windows),
                    fresh=True,
                )
            )

    def open_keys(self) -> tuple[Key, ...]:
        """Of what is open."""
        return tuple(self._open)

    # ------------------------------------------------------------------------ what the host tells

    def add_told(self, told: Incident, now_ms: int) -> None:
        """An incident as its host tells it: added where we have none of it at that time."""
        rule = rule_for(told.kind, told.code)
        begin_ms = max(0, min(told.begin_ms, now_ms))
        last_ms = max(begin_ms, min(told.last_ms, now_ms))
        over_ms = None if told.end_ms is None else max(last_ms, min(told.end_ms, now_ms))
        until_ms = now_ms if over_ms is None else over_ms
        key = (told.kind, told.code)
        ours = self._open.get(key)
        if ours is not None and ours.begin_ms <= until_ms:
            begin_ms = min(begin_ms, ours.begin_ms)
            self._open[key] = replace(
                ours, begin_ms=begin_ms, count=min(max(ours.count, told.count), COUNT_MAX)
            )
            return
        known_already = any(
            one.begin_ms <= until_ms and (one.end_ms or one.last_ms) >= begin_ms
            for one in self._ended_of.get(key, ())
        )
        reading = told.kind > 100 or told.kind is IncidentKind.GPU_LOST
        if rule.severity is None or known_already or (reading and over_ms is None):
            return
        record = Record(
            *key,
            rule.severity,
            begin_ms,
            last_ms,
            None,
            max(1, min(told.count, COUNT_MAX)),
            0,
            1,
            begin_ms,
        )
        if over_ms is None and ours is None:
            self._open[key] = replace(record, severity=self._severity(record, rule))
            return
        end_ms = last_ms if over_ms is None else over_ms
        self._end(replace(record, end_ms=end_ms))
        if ours is not None:
            self._open[key] = replace(ours, severity=self._severity(ours, rule))

    # ------------------------------------------------------------------------ rules and bounds

    def close_up(self, now_ms: int) -> tuple[Record, ...]:
        """The records to keep: bounded, the worst first."""
        standing = sorted(self._open.values(), key=_rank)[:OPEN_MAX]
        fresh = sorted((one for one in self._ended if one.fresh), key=_rank)[:ENDED_MAX]
        old = sorted(
            (
                one
                for one in self._ended
                if not one.fresh and now_ms - one.last_ms <= self._recurrence_ms
            ),
            key=lambda one: (*_rank(one)[:2], -(one.end_ms or 0), *_rank(one)),
        )[:CLOSED_MAX]
        return (*standing, *fresh, *old)

    def _put(self, record: Record) -> None:
        key = (record.kind, record.code)
        self._open[key] = record
        self._touched.add(key)
        self._not_restarted.add(key)

    def _end(self, record: Record) -> None:
        self._ended.append(record)
        self._ended_of.setdefault((record.kind, record.code), []).append(record)

    def _over(self, record: Record, rule: Rule, at_ms: int, *, here: bool) -> int | None:
        """When an event's incident ended, if by this time it has; `here`: the GPU is there, well."""
        if rule.ends not in (Ends.QUIET, Ends.RESTART):
            return None
        ends: list[int] = []
        impaired = record.severity is Severity.IMPAIRED
        quiet_ms = self._recurrence_ms if impaired else self._quiet_ms
        if at_ms - record.last_ms >= quiet_ms:
            ends.append(record.last_ms + quiet_ms)
        # What became worse because it came again, no restart ends; what became worse because the
        # GPU did not come back ends with its return.
        worse = rule.severity is not None and record.severity > rule.severity
        curable = rule.ends is Ends.RESTART and (not worse or (record.survived and here))
        if curable and record.restart_ms is not None:
            ends.append(record.restart_ms)
        return min(ends, default=None)

    def _severity(self, record: Record, rule: Rule) -> Severity:
        """By the rule, one class worse from so many occasions on, and never better than it was."""
        if rule.severity is None:
            return record.severity
        worst = max(record.severity, rule.severity)
        if rule.again:
            days = record.days + sum(
                one.days
                for one in self._ended_of.get((record.kind, record.code), ())
                if record.last_ms - one.last_ms <= self._recurrence_ms
            )
            if days >= rule.again:
                worst = max(worst, Severity(rule.severity + 1))
        return worst


def _uncured(record: Record) -> bool:
    cure = rule_for(record.kind, record.code).cure
    return record.restart_ms is not None and (
        cure is Cure.RESET or (cure is Cure.BOOT and record.booted)
    )


def _rank(record: Record) -> tuple[int, bool, bool, int, int, int, int]:
    """The worse first, then what a table knows, then the driver's own verdict, then the older."""
    strange = not known(record.kind, record.code)
    ours = record.kind is not IncidentKind.RECOVERY_ACTION
    last = record.end_ms or 0
    return (-record.severity, strange, ours, record.begin_ms, record.kind, record.code, last)
