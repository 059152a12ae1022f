"""Windows as the health rules read them: a GPU that is well, but for what a test changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from assay_core.codec import ITEMS_MAX
from assay_core.health import (
    DEFAULT,
    START,
    HealthPolicy,
    HealthState,
    Observation,
    Record,
    follow,
    observe,
    pack,
    rule_for,
    told,
    unpack,
)
from assay_core.health.state import CLOSED_MAX, COUNT_MAX, ENDED_MAX, OPEN_MAX
from assay_core.instants import MINUTE_MS
from assay_core.leaves import (
    Content,
    Counter,
    DriverState,
    Event,
    EventKind,
    Group,
    IncidentKind,
    Reason,
    Value,
)

GPU = bytes(range(16))
NOW = 1_795_000_000_000  # 2026-11-18T10:26:40Z
WINDOW_MS = 5 * MINUTE_MS
H100 = "NVIDIA H100 80GB HBM3"

HEALTH: Mapping[str, Value] = {
    "polls": 60,
    "remap_failed": 0,
    "remap_pending": 0,
    "recovery_action": 0,
    "remapped_rows_uncorrected": Counter(0, 0),
    "pcie_replays": Counter(0, 0),
    "pcie_generation": 5,
    "pcie_width": 16,
    "slowdown_thermal_ns": Counter(0, 0),
    "slowdown_software_thermal_ns": Counter(0, 0),
    "slowdown_hardware_thermal_ns": Counter(0, 0),
    "slowdown_power_brake_ns": Counter(0, 0),
    "tenancy": 1,
    "events": (),
    "incidents": (),
}
CONDITION: Mapping[str, Value] = {
    "unrepairable_memory": 0,
    "ecc_sram_threshold_exceeded": 0,
    "repair_channel_pending": 0,
    "repair_tpc_pending": 0,
    "retired_pages_pending": 0,
    "retired_pages_single_bit": 0,
    "retired_pages_double_bit": 0,
    "inforom_valid": 1,
    "remap_banks_none": 0,
    "power_smoothing_lifetime_pct": 100,
    "fabric_health_summary": 1,
    "fabric_health_mask": 0,
    "fabric_state": 3,
    "fabric_status": 0,
    "mig_mode": 0,
    "nvlink_states": (1,) * 18,
    "nvlink_speeds_mbps": (26_562,) * 18,
    "nvlink_replay_errors": (0,) * 18,
    "nvlink_recovery_errors": (0,) * 18,
    "nvlink_crc_errors": (0,) * 18,
    "nvlink5_recoveries_failed": Reason.NOT_SUPPORTED,
    "pcie_fatal_errors": 0,
}
IDENTITY: Mapping[str, Value] = {
    "name": H100,
    "pci_bus_id": "00000000:3B:00.0",
    "pcie_width_max": 16,
}
HOST: Mapping[str, Value] = {
    "driver_state": int(DriverState.RUNNING),
    "missing_gpus": (),
    "hidden_gpus": (),
    "phantom_gpus": (),
    "events": (),
}
LOST: Mapping[str, Value] = {
    **dict.fromkeys(HEALTH, Reason.GPU_LOST),
    "polls": 0,
    "events": (),
}
PAUSED: Mapping[str, Value] = {
    **dict.fromkeys(HEALTH, Reason.IN_MAINTENANCE),
    "polls": 0,
    "events": (),
}


def xid(code: int, at_ms: int, last_ms: int | None = None, count: int = 1) -> Event:
    return Event(EventKind.XID, code, at_ms, at_ms if last_ms is None else last_ms, count)


def event(kind: EventKind, at_ms: int, code: int = 0) -> Event:
    return Event(kind, code, at_ms, at_ms, 1)


@dataclass
class Gpu:
    """One GPU, told of window by window. `health` and the others stay as set until set again."""

    policy: HealthPolicy = DEFAULT
    at_ms: int = NOW
    boot: int = 1
    state: HealthState = START
    health: dict[str, Value] = field(default_factory=lambda: dict(HEALTH))
    condition: dict[str, Value] = field(default_factory=lambda: dict(CONDITION))
    host: dict[str, Value] = field(default_factory=lambda: dict(HOST))

    def seen(
        self,
        *events: Event,
        after_ms: int = WINDOW_MS,
        boot: int | None = None,
        condition: bool = True,
        identity: bool = True,
        health: Mapping[str, Value] | None = None,
        host: Mapping[str, Value] | None = None,
        **changed: Value,
    ) -> Observation:
        """What the next window says; `health` and `host` are for this window alone."""
        self.at_ms += after_ms
        self.boot = self.boot if boot is None else boot
        for name, value in changed.items():
            (self.condition if name in CONDITION else self.health)[name] = value
        return observe(
            Content(b"", Group.HOST, {**self.host, **(host or {})}),
            Content(GPU, Group.HEALTH, {**self.health, "events": events, **(health or {})}),
            Content(GPU, Group.CONDITION, self.condition) if condition else None,
            at_ms=self.at_ms,
            boot_id=bytes([self.boot]) * 16,
            identity=Content(GPU, Group.IDENTITY, IDENTITY) if identity else None,
        )

    def window(self, *events: Event, **changed: object) -> Gpu:
        """Follows the next window; arguments as of `seen`."""
        self.state = follow(self.state, self.seen(*events, **changed), self.policy)  # type: ignore[arg-type]  # passed on
        return self

    def lost(self, **changed: object) -> Gpu:
        """Follows a window whose host says that the GPU is gone."""
        return self.window(health=LOST, host={"missing_gpus": (GPU,)}, condition=False, **changed)

    def paused(self, **changed: object) -> Gpu:
        """Follows a window of a paused host."""
        state = {"driver_state": int(DriverState.PAUSED)}
        return self.window(health=PAUSED, host=state, condition=False, **changed)

    def open(self) -> dict[tuple[IncidentKind, int], Record]:
        """The open incidents by kind and code."""
        return {(one.kind, one.code): one for one in self.state.open}

    def only(self, kind: IncidentKind, code: int = 0) -> Record:
        """The one record of this kind and code, open or ended."""
        (found,) = [one for one in self.state.records if (one.kind, one.code) == (kind, code)]
        return found


def check(state: HealthState) -> HealthState:
    """What holds of every state, whatever a host says; returns it."""
    standing = [one for one in state.records if one.open]
    fresh = [one for one in state.records if one.fresh]
    keys = {(one.kind, one.code) for one in standing}
    assert len(keys) == len(standing) <= OPEN_MAX, "one open incident of a kind and code"
    assert len(fresh) <= ENDED_MAX
    assert len(state.records) - len(standing) - len(fresh) <= CLOSED_MAX
    assert all(one.end_ms is not None for one in fresh)
    for one in state.records:
        rule = rule_for(one.kind, one.code)
        assert rule.severity is not None, "a pointer is no incident"
        assert one.severity >= rule.severity, "never better than its rule"
        assert 0 <= one.begin_ms <= one.last_ms
        assert one.end_ms is None or one.end_ms >= one.last_ms
        assert 1 <= one.count <= COUNT_MAX
        assert 1 <= one.days <= max(1, one.count, one.windows)
    assert len(told(state)) <= ITEMS_MAX
    assert len(state.pages) <= 16
    assert len({base.total for base in state.bases}) == len(state.bases) <= 9
    packed = pack(state)
    assert len(packed) <= 24 * 1024
    assert unpack(packed) == state
    return state
