"""Does a window hang together? Rules that need no trust in any one counter: each holds what one part
of a window says against what another part says.

They return findings, never verdicts: a sensor may stick and a load may be odd. Nothing here moves a
value. A library that makes numbers up has to make all of them up consistently, all the time.

Every bound is *judgement* unless its rule names a source: wide enough that an honest GPU, sampled at
any interval and under any load, does not meet it. A field without a value, or one that was not
asked for, makes its rules silent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from assay_core.header import Period
from assay_core.health.plausibility_gpu import GPU_RULES
from assay_core.health.plausibility_view import (
    GpuView,
    Known,
    WindowView,
    view,
)
from assay_core.health.values import number, text
from assay_core.leaves import HOST, Content, Gauge, Group, Value
from assay_core.printable import printable

NEEDED: Final[Mapping[Group, tuple[str, ...]]] = MappingProxyType(
    {
        Group.HOST: (
            "driver_state",
            "driver_version",
            "nvml_version",
            "polls",
            "hidden_gpus",
            "phantom_gpus",
            "clock_step_ms",
            "events",
        ),
        Group.IDENTITY: (
            "name",
            "memory_total_bytes",
            "power_limit_default_mw",
            "power_limit_max_mw",
        ),
        Group.HEALTH: (
            "polls",
            "temperature_mc",
            "memory_temperature_mc",
            "slowdown_thermal_ns",
            "events",
        ),
        Group.USE: (
            "gpu_utilisation_bps",
            "memory_utilisation_bps",
            "memory_used_bytes",
            "power_mw",
            "power_limit_mw",
            "energy_mj",
            "sm_clock_mhz",
            "memory_clock_mhz",
            "clocks_event_reasons",
            "sm_activity_pct",
            "tensor_activity_pct",
            "dram_activity_pct",
        ),
        Group.CONDITION: ("odometer_s",),
        Group.PLATFORM: ("kernel_module_version",),
    }
)
"""The fields that the rules look at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What does not hang together: a stable code, whose it is, and one sentence with the numbers.

    `subject` is the GPU's, or the host's where it is of no one GPU.
    """

    code: str
    subject: bytes
    detail: str


CLOCKS_OFF_MS: Final = 2_000
CLOCKS_OFF_PERMILLE: Final = 1
"""A clock that is slewed runs 0.5 ‰ fast or slow at most (adjtimex, 500 ppm)."""
POLL_MIN_MS: Final = 50
"""Half of the least interval that the agent can be set to."""
POLLS_SPARE: Final = 256
"""Polls that events bring about come besides; so many events fit in a leaf."""
MOVING_MIN: Final = 3

# --------------------------------------------------------------------- rules of the host


def _identical(window: WindowView) -> Iterator[tuple[bytes, str]]:
    """GPUs whose statistics are the same to the last digit: one series shown several times."""
    alike: dict[tuple[int, int], list[GpuView]] = defaultdict(list)
    for gpu in window.gpus:
        if gpu.even and gpu.energy is not None and gpu.power is not None:
            alike[gpu.energy.delta, gpu.power.mean].append(gpu)
    for some in alike.values():
        if len(some) < 2:  # so it is, and this is quick
            continue
        same: dict[tuple[Value | None, ...], list[GpuView]] = defaultdict(list)
        for gpu in some:
            same[_series(gpu)].append(gpu)
        for series, gpus in same.items():
            moving = sum(isinstance(one, Gauge) and one.min < one.max for one in series)
            if len(gpus) < 2 or moving < MOVING_MIN or not _moves(gpus[0]):
                continue  # what stands still is the same for honest reasons
            for gpu in gpus:
                yield (
                    gpu.subject,
                    (
                        f"{len(gpus)} GPUs of this host gave the same power, temperature, energy "
                        f"and other statistics to the last digit ({moving} of them moving)."
                    ),
                )


def _series(gpu: GpuView) -> tuple[Value | None, ...]:
    return (
        gpu.power,
        gpu.heat,
        gpu.sm_clock,
        gpu.used,
        gpu.busy,
        gpu.memory_busy,
    )


def _moves(gpu: GpuView) -> bool:
    return all(one is not None and one.min < one.max for one in (gpu.power, gpu.heat))


def _clock_lengths(window: WindowView) -> Iterator[tuple[bytes, str]]:
    period = window.period
    utc_ms = period.end_utc_ms - period.begin_utc_ms
    stepped_ms = number(window.host, "clock_step_ms") or 0
    off_ms = abs(utc_ms - window.length_ms - stepped_ms)
    if off_ms > CLOCKS_OFF_MS + window.length_ms * CLOCKS_OFF_PERMILLE // 1_000:
        yield (
            HOST,
            (
                f"The window took {utc_ms} ms by the wall clock and {window.length_ms} ms since "
                f"boot, and a step of {stepped_ms} ms was told."
            ),
        )


def _host_polls(window: WindowView) -> Iterator[tuple[bytes, str]]:
    polls = number(window.host, "polls")
    if polls is not None and polls > window.length_ms // POLL_MIN_MS + POLLS_SPARE:
        yield HOST, f"{polls} polls in {window.length_ms} ms: more than can be made."


def _bus(window: WindowView) -> Iterator[tuple[bytes, str]]:
    for name, words in (
        ("hidden_gpus", "on the PCI bus with the driver bound, and the driver does not show"),
        ("phantom_gpus", "shown by the driver, and not on the PCI bus"),
    ):
        addresses = window.host.get(name)
        if isinstance(addresses, tuple) and addresses:
            some = ", ".join(printable(one, 16) for one in addresses[:4] if isinstance(one, str))
            more = f" and {len(addresses) - 4} more" if len(addresses) > 4 else ""
            yield HOST, f"{len(addresses)} GPU{'s'[: len(addresses) - 1]} {words}: {some}{more}."


def _versions(window: WindowView) -> Iterator[tuple[bytes, str]]:
    """The library's and the kernel module's versions: NVIDIA ships and loads them as one."""
    module = text(window.platform, "kernel_module_version")
    driver, library = text(window.host, "driver_version"), text(window.host, "nvml_version")
    if module is not None and driver is not None and module != driver:
        yield (
            HOST,
            f"The library says driver {driver}, and the kernel module is {module}.",
        )
    elif driver is not None and library is not None and not library.endswith(driver):
        yield HOST, f"The library is {library}, and the driver it speaks to {driver}."


@dataclass(frozen=True, slots=True)
class HostRule:
    """A rule over the whole window: `look` yields subjects, each with what is amiss."""

    code: str
    look: Callable[[WindowView], Iterable[tuple[bytes, str]]]
    why: str


HOST_RULES: Final = (
    HostRule(
        "plausibility.identical",
        _identical,
        "two sensors do not agree to the millidegree, the milliwatt and the millijoule",
    ),
    HostRule(
        "plausibility.clock_lengths",
        _clock_lengths,
        "both clocks measure one window; slewing is bounded (adjtimex), steps are told",
    ),
    HostRule("plausibility.host_polls", _host_polls, "the agent's least interval is 100 ms"),
    HostRule(
        "plausibility.bus",
        _bus,
        "what is on the bus with the driver is shown by it, and the reverse",
    ),
    HostRule(
        "plausibility.versions",
        _versions,
        "the library and the kernel module are of one driver release (NVML mismatch otherwise)",
    ),
)
CODES: Final = tuple(rule.code for rule in (*GPU_RULES, *HOST_RULES))
"""Every code there is: what labels are bounded by."""


def examine(
    contents: Iterable[Content], boot: str, period: Period, known: Mapping[bytes, Known]
) -> tuple[Finding, ...]:
    """What does not hang together in a window, in the order of the rules.

    `known` is what earlier windows told of its GPUs (see `learn` and reconcile's `totals`), by subject;
    `boot` names the boot, as it does in their totals. The contents may be
    partial: a group, or a field, that is not there is not looked at, but for what a whole window owes
    (`plausibility.withheld`).
    """
    window = view(contents, boot, period, known)
    found = [
        Finding(rule.code, gpu.subject, detail)
        for gpu in window.gpus
        if gpu.polls
        for rule in GPU_RULES
        if (detail := rule.look(gpu, window)) is not None
    ]
    found += [
        Finding(rule.code, subject, detail)
        for rule in HOST_RULES
        for subject, detail in rule.look(window)
    ]
    return tuple(found)
