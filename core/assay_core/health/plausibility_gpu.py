"""Plausibility rules over one GPU: what one part of a window says against what another part says.

Bounds are *judgement* unless their rule names a source: wide enough that an honest GPU, sampled at any
interval and under any load, does not meet them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from assay_core.health.plausibility_view import (
    LENGTH_MIN_MS,
    RESTARTS_MAX,
    GpuView,
    WindowView,
    interrupted,
    mib,
    restarted,
)
from assay_core.health.reconcile import SPARE_MS, elapsed_ms
from assay_core.health.values import counter, events, number
from assay_core.instants import DAY_MS, HOUR_MS, MINUTE_MS
from assay_core.leaves import EventKind, Reason

ENERGY_OFF_PCT: Final = 30
"""Energy may differ so much from mean power × time, and by the sampling error besides."""
ENERGY_OFF_MIN_MW: Final = 20_000
LIMIT_EXCEEDED_PCT: Final = 130
"""Samples of a second's mean above the limit in force; a governor overshoots by a few percent."""
IDLE_PCT: Final = 12
"""Of the board's limit. Idle: H100 10, H200 11, L40S 11 (captures); with a context up, more."""
FULL_PCT: Final = 60
"""Of the board's limit. Encoders and decoders, which no utilisation counts, reach far less."""
BUSY_BPS: Final = 9_000
IDLE_BPS: Final = 100
IDLE_CLOCK_MHZ: Final = 500
ACTIVITY_OFF_PCT: Final = 30
ACTIVE_PCT: Final = 20
CONTEXT_BYTES: Final = 64 * 1024 * 1024
"""Less memory than any context takes: no kernel can run in it."""
COLD_MC: Final = 8_000
"""Below the air or the coolant of any hall; a silicon that gives off heat is warmer than either."""
HOT_MC: Final = 115_000
"""Above the shutdown limit of every product, which lies under 105 °C."""
COLD_POWER_MW: Final = 50_000
SWING_PCT: Final = 30
"""Of the board's limit: a move of power that no heatsink hides from a sensor of whole degrees."""
SM_CLOCK_MAX_MHZ: Final = 4_000
MEMORY_CLOCK_MAX_MHZ: Final = 20_000
POWER_MAX_MW: Final = 3_000_000
"""Beyond any product there is."""
MODEL_OFF_PCT: Final = 5
NAMED_OFF_PCT: Final = 15
_NOT_READ: Final = frozenset({"polls", "events", "incidents", "tenancy"})
"""Fields that no reading of the GPU gives."""
DAILY_MS: Final = 2 * DAY_MS + HOUR_MS
_IDLE_REASON: Final = 0x1  # nvmlClocksEventReasonGpuIdle
_THERMAL_REASONS: Final = 0x60  # software and hardware thermal slowdown


@dataclass(frozen=True, slots=True)
class Published:
    """What a product is at most: megahertz and MiB."""

    sm_clock_mhz: int
    memory_clock_mhz: int
    memory_mib: int


MODELS: Final = MappingProxyType(
    {
        "NVIDIA H100 80GB HBM3": Published(1_980, 2_619, 81_559),
        "NVIDIA H200": Published(1_980, 3_201, 143_771),
        "NVIDIA L40S": Published(2_520, 9_001, 46_068),
    }
)
"""From nvidia-smi captures of real cards in nvidia_gpu_exporter (github.com/utkuozdemir/
nvidia_gpu_exporter, MIT), "Max Clocks" and "FB Memory Usage", drivers 590.48.01 and 595.80."""
_NAMED_MEMORY: Final = re.compile(r"\b(\d{1,3}) ?GB\b")
_OTHER_MEMORY: Final = ("NVIDIA GH200", "NVIDIA GB200", "NVIDIA GB300")
"""Superchips, whose names tell the processor's memory."""


# --------------------------------------------------------------------- rules of one GPU


def _energy_and_power(gpu: GpuView, window: WindowView) -> str | None:
    energy, power = gpu.energy, gpu.power
    if energy is None or power is None or not gpu.even:
        return None
    seconds = window.length_ms / 1_000
    expected_mj = power.mean * seconds
    # The mean of n samples of a load that jumps between its extremes errs by half its span ÷ √n;
    # four such errors, and an interval's energy at either end of the window.
    sampling_mw = 2 * (power.max - power.min) / math.sqrt(gpu.polls) + 2 * power.max / gpu.polls
    spare_mw = power.mean * ENERGY_OFF_PCT / 100 + sampling_mw + ENERGY_OFF_MIN_MW
    if abs(energy.delta - expected_mj) <= spare_mw * seconds:
        return None
    return (
        f"Energy rose by {energy.delta / 1_000:.0f} J in {seconds:.0f} s, and mean power was "
        f"{power.mean / 1_000:.0f} W, which makes {expected_mj / 1_000:.0f} J."
    )


def _energy_and_limit(gpu: GpuView, window: WindowView) -> str | None:
    energy, limit_mw = gpu.energy, gpu.limit_mw
    if energy is None or limit_mw is None or window.length_ms < LENGTH_MIN_MS or gpu.polls < 2:
        return None
    # The increase is counted from the last poll before the window, however long ago that was; and
    # the last poll is up to an interval before the window's end.
    seconds = gpu.since_ms / 1_000 * (gpu.polls + 1) / (gpu.polls - 1)
    most_mj = limit_mw * seconds * LIMIT_EXCEEDED_PCT / 100
    if energy.delta <= most_mj or interrupted(gpu.health):
        return None
    return (
        f"Energy rose by {energy.delta / 1_000:.0f} J in {gpu.since_ms / 1_000:.0f} s, and the "
        f"power limit of {limit_mw / 1_000:.0f} W allows {most_mj / 1_000:.0f} J."
    )


def _power_and_limit(gpu: GpuView, _: WindowView) -> str | None:
    power, limit_mw = gpu.power, gpu.limit_mw
    if power is None:
        return None
    if limit_mw is not None and power.max * 100 > limit_mw * LIMIT_EXCEEDED_PCT:
        limit = f"its limit is {limit_mw / 1_000:.0f} W"
    elif power.max > POWER_MAX_MW:
        limit = "no product draws so much"
    else:
        return None
    return f"Power reached {power.max / 1_000:.0f} W, and {limit}."


def _busy_and_power(gpu: GpuView, _: WindowView) -> str | None:
    busy, power = gpu.busy, gpu.power
    if busy is None or power is None or gpu.board_mw is None or not gpu.even:
        return None
    if busy.mean < BUSY_BPS or power.max * 100 > gpu.board_mw * IDLE_PCT:
        return None
    return (
        f"Busy {busy.mean / 100:.0f} % of the time, and power was never above "
        f"{power.max / 1_000:.0f} W of {gpu.board_mw / 1_000:.0f} W: it idled."
    )


def _busy_and_clocks(gpu: GpuView, _: WindowView) -> str | None:
    busy, clock = gpu.busy, gpu.sm_clock
    reasons = gpu.reasons
    if busy is None or clock is None or reasons is None or not gpu.even:
        return None
    held = reasons & ~_IDLE_REASON  # somebody or something holds the clocks down: no contradiction
    if busy.min < BUSY_BPS or clock.max > IDLE_CLOCK_MHZ or held:
        return None
    return (
        f"Busy at least {busy.min / 100:.0f} % of the time, and the SMs never ran faster than "
        f"{clock.max} MHz though nothing held them down."
    )


def _idle_and_power(gpu: GpuView, _: WindowView) -> str | None:
    busy, power = gpu.busy, gpu.power
    active = gpu.sm_pct or 0
    if busy is None or power is None or gpu.board_mw is None or not gpu.even:
        return None
    if busy.max > IDLE_BPS or active > 1 or power.mean * 100 < gpu.board_mw * FULL_PCT:
        return None
    return (
        f"Never busy more than {busy.max / 100:.0f} % of the time, and power was "
        f"{power.mean / 1_000:.0f} W of {gpu.board_mw / 1_000:.0f} W."
    )


def _activity_and_utilisation(gpu: GpuView, _: WindowView) -> str | None:
    busy, active = gpu.busy, gpu.sm_pct
    if busy is None or active is None or not gpu.even:
        return None
    sampling_pct = 2 * (busy.max - busy.min) / 100 / math.sqrt(gpu.polls)
    if active - busy.mean / 100 <= ACTIVITY_OFF_PCT + sampling_pct:
        return None
    return f"SMs active {active} % of the time, and the GPU busy {busy.mean / 100:.0f} % of it."


def _tensor_and_activity(gpu: GpuView, _: WindowView) -> str | None:
    active, tensor = gpu.sm_pct, gpu.tensor_pct
    if active is None or tensor is None or not gpu.even or tensor - active <= ACTIVITY_OFF_PCT:
        return None
    return f"Tensor cores active {tensor} % of the time, and the SMs they are part of {active} %."


def _shares(gpu: GpuView, _: WindowView) -> str | None:
    for name, share in (("GPU", gpu.busy), ("Memory", gpu.memory_busy)):
        if share is not None and share.max > 10_000:
            return (
                f"{name} utilisation reached {share.max} hundredths of a percent: over the whole."
            )
    for name, percent in (("SM", gpu.sm_pct), ("Tensor", gpu.tensor_pct), ("DRAM", gpu.dram_pct)):
        if percent is not None and percent > 100:
            return f"{name} activity is {percent} %: over the whole."
    return None


def _memory_and_total(gpu: GpuView, _: WindowView) -> str | None:
    used, total = gpu.used, gpu.known.memory_total_bytes
    if used is None or total is None or used.max <= total:
        return None
    return f"{mib(used.max)} MiB of memory in use, and there are {mib(total)} MiB."


def _memory_and_traffic(gpu: GpuView, _: WindowView) -> str | None:
    used = gpu.used
    if used is None or used.max >= CONTEXT_BYTES or not gpu.even:
        return None
    dram, share = gpu.dram_pct, gpu.memory_busy
    percent = max(dram or 0, 0 if share is None else share.mean // 100)
    if percent < ACTIVE_PCT:
        return None
    return (
        f"Memory was read or written {percent} % of the time, and at most {mib(used.max)} MiB "
        "of it were in use."
    )


def _temperature(gpu: GpuView, _: WindowView) -> str | None:
    power = gpu.power
    for name, heat in (("GPU", gpu.heat), ("Memory", gpu.memory_heat)):
        if heat is None:
            continue
        if heat.max > HOT_MC:
            return f"{name} at {heat.max / 1_000:.0f} °C, where every product has shut down."
        if heat.min < COLD_MC and power is not None and power.min >= COLD_POWER_MW:
            return (
                f"{name} at {heat.min / 1_000:.0f} °C at no less than {power.min / 1_000:.0f} W: "
                "colder than what cools it."
            )
    return None


def _temperature_stands(gpu: GpuView, _: WindowView) -> str | None:
    heat, power = gpu.heat, gpu.power
    if heat is None or power is None or gpu.board_mw is None or not gpu.even:
        return None
    slowed = counter(gpu.health, "slowdown_thermal_ns")
    reasons = gpu.reasons or 0
    if heat.min != heat.max or reasons & _THERMAL_REASONS or (slowed is not None and slowed.delta):
        return None  # a GPU at its thermal limit is kept there: that is what the limit is for
    swing_mw = gpu.board_mw * SWING_PCT // 100
    if min(power.mean - power.min, power.max - power.mean) * 2 < swing_mw:
        return None
    return (
        f"Temperature was {heat.min / 1_000:.0f} °C throughout, and power moved between "
        f"{power.min / 1_000:.0f} and {power.max / 1_000:.0f} W."
    )


def _model(gpu: GpuView, _: WindowView) -> str | None:
    name, total = gpu.known.name, gpu.known.memory_total_bytes
    sm, memory = gpu.sm_clock, gpu.memory_clock
    most = None if name is None else MODELS.get(name)
    sm_max = SM_CLOCK_MAX_MHZ if most is None else most.sm_clock_mhz
    memory_max = MEMORY_CLOCK_MAX_MHZ if most is None else most.memory_clock_mhz
    product = "any product" if most is None else name
    for what, clock, limit in (("SMs", sm, sm_max), ("memory", memory, memory_max)):
        if clock is not None and clock.max * 100 > limit * (100 + MODEL_OFF_PCT):
            return f"The {what} ran at {clock.max} MHz, and {product} has {limit} MHz at most."
    if total is None or name is None:
        return None
    if most is not None:
        expected, spare = most.memory_mib, MODEL_OFF_PCT
    else:
        named = None if name.startswith(_OTHER_MEMORY) else _NAMED_MEMORY.search(name)
        expected, spare = (0 if named is None else int(named[1]) * 1024), NAMED_OFF_PCT
    if expected and abs(mib(total) - expected) * 100 > expected * spare:
        return f"{mib(total)} MiB of memory, and {name} has about {expected} MiB."
    return None


def _counter_fell(gpu: GpuView, _: WindowView) -> str | None:
    fell = [one.code for one in events(gpu.health) if one.kind is EventKind.COUNTER_FELL]
    if not fell:
        return None
    names = ", ".join(f"{code // 1_000}.{code % 1_000}" for code in sorted(fell)[:8])
    return (
        f"{len(fell)} counters ran backwards while the driver stayed loaded (the schema's numbers "
        f"of leaf body and field: {names})."
    )


def _polls(gpu: GpuView, window: WindowView) -> str | None:
    of_host = number(window.host, "polls")
    if of_host is not None and gpu.polls > of_host:
        return f"Seen in {gpu.polls} polls, and its host made {of_host}."
    return None


def _odometer(gpu: GpuView, window: WindowView) -> str | None:
    now_s, before = number(gpu.condition, "odometer_s"), gpu.known.totals
    if now_s is None or before is None or before.odometer_s is None:
        return None
    advance_s = now_s - before.odometer_s
    since_ms = before.odometer_age_ms + elapsed_ms(before, window.boot, window.period)
    if 0 <= advance_s <= (since_ms + SPARE_MS) // 1_000:
        return None
    if advance_s < 0:
        return f"The odometer went back by {-advance_s} s: it only ever counts up."
    return f"The odometer advanced by {advance_s} s within {since_ms // 1_000} s."


def _withheld(gpu: GpuView, window: WindowView) -> str | None:
    known = gpu.known
    untold = (
        ("identity", gpu.identified, known.identity_untold_ms),
        ("condition", bool(gpu.condition), known.condition_untold_ms),
        ("platform", bool(window.platform), known.platform_untold_ms),
    )
    late = [f"{name} {ms // HOUR_MS} h" for name, told, ms in untold if not told and ms > DAILY_MS]
    if not late and gpu.use:
        return None
    also = ["use, which every window has"] if not gpu.use else []
    return f"It is seen, and leaves that are due do not come: {', '.join([*late, *also])}."


def _renamed(gpu: GpuView, _: WindowView) -> str | None:
    before = gpu.renamed_from
    return None if before is None else f"It was {before}, and is called {gpu.known.name} now."


def _unread(gpu: GpuView, _: WindowView) -> str | None:
    told = (
        value
        for values in (gpu.health, gpu.use)
        for name, value in values.items()
        if name not in _NOT_READ
    )
    if not gpu.use or any(not isinstance(value, Reason) for value in told):
        return None
    return f"Reached by {gpu.polls} polls, and not one reading came of it."


def _restarts(gpu: GpuView, window: WindowView) -> str | None:
    times = gpu.known.restarts
    span_ms = window.period.end_utc_ms - times[0] if len(times) == RESTARTS_MAX else DAY_MS
    if not 0 <= span_ms < DAY_MS or not restarted(gpu, window):
        return None
    return (
        f"{len(times) + 1} windows within {span_ms // MINUTE_MS} minutes told of a restart, over "
        "which no rate of errors is taken."
    )


@dataclass(frozen=True, slots=True)
class GpuRule:
    """A rule over one GPU: `look` returns what does not hang together, or None."""

    code: str
    look: Callable[[GpuView, WindowView], str | None]
    why: str


GPU_RULES: Final = (
    GpuRule(
        "plausibility.energy_and_power",
        _energy_and_power,
        "energy is the integral of power; bounds are judgement",
    ),
    GpuRule(
        "plausibility.energy_and_limit",
        _energy_and_limit,
        "the power governor bounds energy, whatever power is said to be; bounds are judgement",
    ),
    GpuRule(
        "plausibility.power_and_limit",
        _power_and_limit,
        "NVML power is a second's mean, which the governor holds near the limit; judgement",
    ),
    GpuRule(
        "plausibility.busy_and_power",
        _busy_and_power,
        "a kernel that runs draws more than idle power (captures: idle 10 to 11 % of the limit)",
    ),
    GpuRule(
        "plausibility.busy_and_clocks",
        _busy_and_clocks,
        "clocks rise under load unless an event reason says why not (NVML clocksEventReasons)",
    ),
    GpuRule(
        "plausibility.idle_and_power",
        _idle_and_power,
        "nothing but kernels draws most of the power limit; judgement",
    ),
    GpuRule(
        "plausibility.activity_and_utilisation",
        _activity_and_utilisation,
        "an active SM means a running kernel, which is what utilisation counts (NVML)",
    ),
    GpuRule(
        "plausibility.tensor_and_activity",
        _tensor_and_activity,
        "tensor cores are parts of SMs (NVML, GPM metrics 2 and 5)",
    ),
    GpuRule("plausibility.shares", _shares, "a share is not more than the whole"),
    GpuRule("plausibility.memory_and_total", _memory_and_total, "memory in use exists"),
    GpuRule(
        "plausibility.memory_and_traffic",
        _memory_and_traffic,
        "a kernel that reads or writes memory has a context in it; the amount is judgement",
    ),
    GpuRule(
        "plausibility.temperature",
        _temperature,
        "silicon is warmer than what cools it, and shuts down when too hot; judgement",
    ),
    GpuRule(
        "plausibility.temperature_stands",
        _temperature_stands,
        "temperature follows power, but at the thermal limit; bounds are judgement",
    ),
    GpuRule(
        "plausibility.model",
        _model,
        "clocks and memory of the product (nvidia-smi captures), or what its name says of memory",
    ),
    GpuRule(
        "plausibility.counter_fell",
        _counter_fell,
        "counters count up until the driver reloads (NVML); told by the agent",
    ),
    GpuRule("plausibility.polls", _polls, "no poll reaches a GPU that its host did not make"),
    GpuRule(
        "plausibility.odometer",
        _odometer,
        "the odometer counts seconds with a driver loaded (NVML, BBX time data)",
    ),
    GpuRule(
        "plausibility.withheld",
        _withheld,
        "identity, condition and platform travel once a day at least, usage always; two days and "
        "an hour allow for one window lost with a full spool",
    ),
    GpuRule(
        "plausibility.renamed",
        _renamed,
        "what is held against a product is held against the name; a driver may write it otherwise",
    ),
    GpuRule(
        "plausibility.unread",
        _unread,
        "a poll reached a GPU where it read something of it: so the agent counts them",
    ),
    GpuRule(
        "plausibility.restarts",
        _restarts,
        "who tells of restarts all the time has no rate taken; the number is judgement",
    ),
)
