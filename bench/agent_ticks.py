"""The agent's ticks: what one costs beside its bare NVML calls, whether memory grows with them, and
how soon an event is in a sealed window.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench import agent, processes
from bench.agent import Running
from bench.cycles import APART_S
from bench.row import Context, Measurement, MeasurementFailed, Row
from tests.fakes.shim import ShimScenario

TICKS: Final = 1_500
SPACED_TICKS: Final = 60
ROUNDS: Final = 3
WARM_POLLS: Final = 1_000
POLLS: Final = 10_000
WINDOW_MS: Final = 1_000
"""While polls follow each other at once: a day's windows in minutes."""
SCRAPE_POLLS: Final = 200
GROWTH_MIB: Final = 0.25
"""Of 10,000 polls, and of the few hundred windows between them: what allocators move about."""
EVENTS: Final = 60
BETWEEN_S: Final = 0.3
SEALED_MAX_S: Final = 20.0


def measure_ticks(context: Context) -> Sequence[Row]:
    """The agent's ticks and bare ones in turn; of each the round that took least."""
    shim, env = agent.environment(context.folder)
    context.say("comparing which calls both make")
    _same_calls(shim, env)
    fast: tuple[list[float], list[float]] = ([], [])
    spaced: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS):
        context.say(f"round {number + 1} of {ROUNDS}")
        for what, at_once, apart in zip(("agent", "bare"), fast, spaced, strict=True):
            at_once.append(_tick_us(what, TICKS, env))
            apart.append(_tick_us(what, SPACED_TICKS, env, "--spaced"))
    ours, theirs = map(min, fast)
    ours_apart, theirs_apart = map(min, spaced)
    return [
        Row(
            name="agent_cycle_ratio",
            value=ours,
            unit="us/tick",
            bound=theirs,
            bound_is="the bound is the same NVML calls, made bare through the unmodified pynvml",
            ratio=ours / theirs,
            target=1.5,
            judged="ratio",
            better="lower",
            note="CPU of both processes for one tick of 8 GPUs, everything on: the driver "
            "process's look, the pipe, the agent's parsing, its surroundings and its window. In "
            "both, ticks follow each other at once, with GPU performance as often as it can be "
            "sampled; the call log shows the same calls. With "
            f"{APART_S * 1_000:.0f} ms between ticks, so that each wakes sleeping processes and "
            f"finds cold caches: {ours_apart:,.0f} us, bare {theirs_apart:,.0f} us, ratio "
            f"{ours_apart / theirs_apart:.2f}",
        )
    ]


def _tick_us(what: str, ticks: int, env: Mapping[str, str], *more: str) -> float:
    command = [sys.executable, "-m", "bench.cycles", what, "--ticks", str(ticks), *more]
    return float(json.loads(processes.run(command, env=env))["us"])


def _same_calls(shim: ShimScenario, env: Mapping[str, str]) -> None:
    """Raises MeasurementFailed where one tick of the agent and a bare one do not call the same."""
    logged = {**env, "ASSAY_SHIM_CALL_LOG": str(shim.call_log)}
    seen = []
    for what in ("agent", "bare"):
        counts = []
        for ticks in (5, 10):
            shim.call_log.unlink(missing_ok=True)
            _tick_us(what, ticks, logged, "--spaced")
            calls = [call.function for call in shim.calls()]
            # Only the agent waits for events, and not once a tick.
            counts.append(Counter(name for name in calls if "EventSetWait" not in name))
        seen.append(counts[1] - counts[0])
    if seen[0] != seen[1]:
        raise MeasurementFailed(f"the agent calls {seen[0]}, and the bare loop {seen[1]}")


def measure_growth(context: Context) -> Sequence[Row]:
    """The service itself, polling as fast as it can, its metrics scraped all the while."""
    folder = context.folder
    _, env = agent.environment(folder)
    command = [sys.executable, "-m", "bench.cycles", "service", "--every", str(SCRAPE_POLLS)]
    with agent.running(folder, env, command=command, window_ms=WINDOW_MS) as running:
        warm = _resident_mib(running, context.say, WARM_POLLS)
        grown = _resident_mib(running, context.say, WARM_POLLS + POLLS)
        sealed = running.log.read_text().count('"sealed"')
    return [
        Row(
            name="agent_growth",
            value=grown - warm,
            unit="MiB",
            bound=None,
            bound_is=f"from {warm:.2f} MiB after {WARM_POLLS:,} polls",
            ratio=(grown - warm) / GROWTH_MIB,
            target=GROWTH_MIB,
            judged="value",
            better="lower",
            note=f"agent and child together, resident and not a file's, after {POLLS:,} more polls of 8 GPUs at full "
            f"speed, {sealed} windows sealed, spooled and sent, metrics scraped every "
            f"{SCRAPE_POLLS} polls",
        )
    ]


def _resident_mib(running: Running, say: Callable[[str], None], polls: int) -> float:
    """Anonymous resident memory of both once it has polled so often, scraping as it goes on."""
    while (done := _polled(running.log)) < polls:
        say(f"{done:,} polls")
        running.scrape()
        time.sleep(0.2)
        running.pids()
    return sum(map(processes.anonymous_kib, running.pids())) / 1024


def _polled(log: Path) -> int:
    told = [int(line) for line in log.read_text().splitlines() if line.isdigit()]
    return told[-1] if told else 0


def measure_events(context: Context) -> Sequence[Row]:
    """Xids, one after the other, each until the window that holds it is sealed."""
    folder = context.folder
    shim, env = agent.environment(folder)
    del env["ASSAY_SHIM_WAIT_POLL_MS"]
    took_s = []
    with agent.running(folder, env, window_ms=900_000) as running:
        context.say("warming up")
        _wait(running, lambda: _sealed(running.log) > 0)
        time.sleep(3.0)
        for number in range(EVENTS):
            context.say(f"event {number + 1} of {EVENTS}")
            before = _sealed(running.log)
            began_s = time.monotonic()
            shim.gpu(number % 8).xid(13 + number)
            _wait(running, lambda before=before: _sealed(running.log) > before)  # type: ignore[misc]  # bound now
            took_s.append(time.monotonic() - began_s)
            time.sleep(BETWEEN_S)
    ordered = sorted(took_s)
    p99_s = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
    return [
        Row(
            name="event_to_sealed_p99_s",
            value=p99_s,
            unit="s",
            bound=None,
            bound_is="from an Xid in the driver to its sealed window in the spool",
            ratio=p99_s,
            target=1.0,
            judged="value",
            better="lower",
            note=f"{EVENTS} Xids over 8 GPUs, {BETWEEN_S} s apart; the median is "
            f"{ordered[len(ordered) // 2]:.3f} s. The agent polls once a second and waits for "
            "events meanwhile",
        )
    ]


def _sealed(log: Path) -> int:
    """Number of windows sealed; the log says so once the spool has them."""
    return log.read_bytes().count(b'"event": "sealed"')


def _wait(running: Running, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SEALED_MAX_S
    while not done():
        processes.alive(running.process, running.log)
        if time.monotonic() > deadline:
            raise MeasurementFailed(f"no window was sealed:\n{processes.tail(running.log)}")
        time.sleep(0.002)


TICK: Final = Measurement(
    ("agent_cycle_ratio",), "one tick of the agent beside its bare NVML calls", measure_ticks
)
GROWTH: Final = Measurement(
    ("agent_growth",), "what 10,000 polls add to the agent's memory", measure_growth
)
EVENT: Final = Measurement(
    ("event_to_sealed_p99_s",), "how soon an Xid is in a sealed window", measure_events
)
