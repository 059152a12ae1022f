"""A process that does ticks and nothing else, to be measured: the agent's own, or bare NVML calls.

    python -m bench.cycles agent --ticks 200      the agent's source, driver process and window
    python -m bench.cycles bare --ticks 200       the same NVML calls through NVIDIA's binding
    python -m bench.cycles service --config F     `assay-agent run` with a poll as soon as one ends

The first two print a JSON line: the CPU of a tick, microseconds, of all processes together. With
`--spaced` ticks are APART_S apart, so that each has its sample of GPU performance; otherwise they
follow at once, and have one when the last is old enough. The third prints how often it
has polled, a line after each `--every` polls, until it is stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol, cast

from assay_agent import config, host, log, spool_file
from assay_agent.config import SourceConfig
from assay_agent.host import Clock
from assay_agent.keys import KeyStore
from assay_agent.metrics import AgentMetrics
from assay_agent.service import Service
from assay_agent.spool import Chain, Spool
from assay_agent.telemetry import gpm, table
from assay_agent.telemetry.reading import Depth, GpuSource, Poll
from assay_agent.telemetry.sources import make_source
from assay_agent.uplink.uplink import Pace
from assay_agent.window import Aggregator
from assay_core.header import Source

APART_S: Final = 0.12
_GPM_VERSION: Final = 1
WARM: Final = 20
"""Ticks before the first that counts."""


def main() -> None:
    """Does what was asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("agent", "bare", "service"))
    parser.add_argument("--ticks", type=int, default=200)
    parser.add_argument("--spaced", action="store_true")
    parser.add_argument("--every", type=int, default=1_000)
    parser.add_argument("--config", type=Path)
    options = parser.parse_args()
    if options.what == "service":
        asyncio.run(_serve(options.config, options.every))
        return
    apart_s = APART_S if options.spaced else 0.0
    if options.what == "agent":
        each_us = asyncio.run(_agent(options.ticks, apart_s))
    else:
        each_us = _bare(options.ticks, apart_s)
    print(json.dumps({"us": each_us}))


async def _agent(ticks: int, apart_s: float) -> float:
    """CPU of this process and of its driver process for one tick."""
    source, clock = make_source(SourceConfig()), Clock()
    window = Aggregator(
        (), begin_utc_ms=clock.utc_ms(), begin_boottime_ms=clock.boottime_ms(), boot_id=bytes(16)
    )
    window.add(await source.poll(0, Depth.DAY))
    children = _children()
    if len(children) != 1:
        raise SystemExit(f"{len(children)} driver processes")
    for _ in range(WARM):
        window.add(await source.poll(int(apart_s * 1_000)))
    before_ns = _cpu_ns("self") + _cpu_ns(children[0])
    for _ in range(ticks):
        window.add(await source.poll(int(apart_s * 1_000)))
    used_ns = _cpu_ns("self") + _cpu_ns(children[0]) - before_ns
    await source.close()
    return used_ns / ticks / 1e3


class _Metric(Protocol):
    """One metric of the binding's structure."""

    metricId: int  # noqa: N815 - its name there


class Counted:
    """A source that never waits and says how often it was polled; see GpuSource."""

    def __init__(self, inner: GpuSource, every: int) -> None:
        self._inner = inner
        self._every = every
        self._polls = 0

    @property
    def kind(self) -> Source:
        """As behind it."""
        return self._inner.kind

    async def poll(self, timeout_ms: int, depth: Depth = Depth.TICK) -> Poll:
        """At once, however long it might wait."""
        del timeout_ms
        poll = await self._inner.poll(0, depth)
        self._polls += 1
        if self._polls % self._every == 0:
            print(self._polls, flush=True)
        return poll

    async def pause(self) -> None:
        """As behind it."""
        await self._inner.pause()

    async def resume(self) -> None:
        """As behind it."""
        await self._inner.resume()

    async def close(self) -> None:
        """As behind it."""
        await self._inner.close()


async def _serve(path: Path, every: int) -> None:
    """As cli.run does, but for the source."""
    settings = config.load(path)
    log.to_stderr()
    keys, clock = KeyStore.default(settings), Clock()
    enrolled = keys.host()
    source = Counted(make_source(settings.source, keys.state_dir), every)
    spool = Spool(
        keys.state_dir / spool_file.FILE,
        chain=Chain(enrolled.host_id, enrolled.incarnation),
        signer=keys.signer(),
        boot_id=host.boot_id(source.kind),
        bytes_max=settings.spool.bytes_max,
        acknowledged_keep_ms=settings.spool.acknowledged_keep_ms,
        now_ms=clock.utc_ms(),
    )
    metrics = AgentMetrics(source.kind, settings.metrics)
    await metrics.serve()
    await Service(settings, keys, source, spool, metrics, clock=clock, pace=Pace()).run()
    spool.close()


def _children() -> list[str]:
    """Process ids of what the main thread started."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def _cpu_ns(pid: str) -> int:
    """CPU of all threads of a process, nanoseconds."""
    return sum(
        int((task / "schedstat").read_text().split()[0])
        for task in Path(f"/proc/{pid}/task").iterdir()
    )


def _bare(ticks: int, apart_s: float) -> float:
    functions = vars(import_module("pynvml"))  # not at the head: the agent itself has it not
    functions["nvmlInit"]()
    tick = [
        one
        for index in range(functions["nvmlDeviceGetCount"]())
        for one in _calls(functions, functions["nvmlDeviceGetHandleByIndex"](index))
    ]
    tick.append(functions["nvmlDeviceGetCount"])
    for count in (WARM, ticks):
        before_ns = _cpu_ns("self")
        for _ in range(count):
            if apart_s:
                time.sleep(apart_s)
            for call in tick:
                call()
    return (_cpu_ns("self") - before_ns) / ticks / 1e3


def _calls(functions: Mapping[str, object], handle: object) -> list[Callable[[], object]]:
    """What the agent calls of one GPU at every tick, through the binding's own functions."""
    ids = [entry.field_id for entry in table.ENTRIES if entry.depth is Depth.TICK]
    found = [_call(functions, "nvmlDeviceGetFieldValues", handle, ids)]
    for call in table.CALLS:
        if call.depth is not Depth.TICK:
            continue
        name = call.function.removesuffix("_v2")
        after: tuple[object, ...] = call.given
        if name == "nvmlDeviceGetTemperatureV":
            after = (0,)  # the binding's function asks for the sensor
        elif name != call.function:
            after = (functions["nvmlMemory_v2"],)
        found.append(_call(functions, name, handle, *after))
    return [*found, _performance(functions, handle)]


def _call(functions: Mapping[str, object], name: str, *given: object) -> Callable[[], object]:
    return partial(cast("Callable[[object], object]", functions[name]), *given)


def _performance(functions: Mapping[str, object], handle: object) -> Callable[[], None]:
    """A sample, and the metrics since the last one."""
    samples = [_call(functions, "nvmlGpmSampleAlloc")() for _ in range(2)]
    take = [_call(functions, "nvmlGpmSampleGet", handle, sample) for sample in samples]
    take[1]()
    asked = _call(functions, "c_nvmlGpmMetricsGet_t")()
    metrics = cast("Sequence[object]", vars(type(asked))["metrics"].__get__(asked))
    for name, value in (("version", _GPM_VERSION), ("numMetrics", len(table.GPM))):
        setattr(asked, name, value)
    for metric, (number, _) in zip(metrics, table.GPM, strict=False):
        cast("_Metric", metric).metricId = number
    get = _call(functions, "nvmlGpmMetricsGet", asked)

    taken_s = time.monotonic()

    def measure() -> None:
        nonlocal taken_s
        if time.monotonic() - taken_s < gpm.APART_S:
            return
        taken_s = time.monotonic()
        samples.reverse()
        take.reverse()
        take[1]()
        for name, sample in zip(("sample1", "sample2"), samples, strict=True):
            setattr(asked, name, sample)
        get()

    return measure


if __name__ == "__main__":
    main()
