"""What surrounds the driver, added to what it says: the bus, its library, the kernel's log.

Rules:

1. Who has a GPU is for the bus to say: losses.py.
2. An Xid is told once, whoever told it: xids.py.
3. A driver's process may know only the GPUs that were there when it began. One that the bus has
   and it does not show is looked for once by a new process before it is called hidden, or lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from assay_agent.machine.kernel_log import Choice, KernelLog, offered
from assay_agent.machine.library import Library, module_version
from assay_agent.machine.pci import Bus, Given, PciBus, hidden
from assay_agent.telemetry.addresses import Addresses
from assay_agent.telemetry.attestor import Attestation
from assay_agent.telemetry.fields import names
from assay_agent.telemetry.losses import Losses
from assay_agent.telemetry.reading import Depth, GpuReading, GpuSource, Happening, Poll, Sample
from assay_agent.telemetry.xids import Xids
from assay_core.header import Source
from assay_core.leaves import HOST, DriverState, EventKind, Reason, Tenancy
from assay_core.pci import pci_address


class Driver(GpuSource, Protocol):
    """The source that reads the driver: NvmlSource, or one that stands for it."""

    @property
    def process(self) -> int | None:
        """Process id of the one that has the driver's library."""
        ...

    @property
    def bus_ids(self) -> Mapping[bytes, str]:
        """Where each known GPU was last seen, as NVML writes it."""
        ...

    def happen(self, happening: Happening) -> None:
        """Adds to the events of the next poll, and ends the wait for them."""
        ...

    async def attest(self, nonce: bytes) -> Attestation:
        """What the GPUs answered when they were asked for evidence."""
        ...


class Surroundings:
    """A driver and what is around it; see GpuSource. Belongs to one event loop."""

    def __init__(
        self,
        inner: Driver,
        *,
        utc_ms: Callable[[], int],
        root: Path = Path("/"),
        devices: Path = Path("/dev"),
        kernel_log: Choice = "auto",
        journalctl: str | None = None,
        state_dir: Path | None = None,
    ) -> None:
        """`devices` is where NVML opens the GPUs, which in a container is not below `root`.

        Without a state directory the log is followed from now on, and its place is not kept.
        """
        self._inner = inner
        self._bus = PciBus(root)
        self._places = Addresses(state_dir)
        self._given = Given(root, devices)
        self._losses = Losses()
        self._xids = Xids(inner.happen)
        self._log = KernelLog(
            root,
            kernel_log,
            self._xids.told,
            state_dir=state_dir,
            utc_ms=utc_ms,
            command=journalctl,
        )
        self._offered = offered(root, kernel_log, journalctl)
        self._platform = _Platform(root)
        self._told: dict[bytes, str] = {}
        self._bus_ids: dict[bytes, str] = {}
        self._tenancies: dict[bytes, Tenancy] = {}
        self._guests: list[bytes] = []
        self._seen: tuple[object, ...] = ()
        self._odd: dict[EventKind, frozenset[str]] = {}
        self._process: int | None = None
        self._anew: frozenset[str] = frozenset()
        self._looked_anew: frozenset[str] = frozenset()
        self._origin = ""
        self._paused = False

    @property
    def kind(self) -> Source:
        """The driver's."""
        return self._inner.kind

    @property
    def log_process(self) -> int | None:
        """Process id of the journal's reader."""
        return self._log.pid

    async def poll(self, timeout_ms: int, depth: Depth = Depth.TICK) -> Poll:
        """See GpuSource."""
        if timeout_ms > 0:  # one look alone is no time to follow a log
            self._log.follow()
        if self._xids.quiet(_now_s()) and (self._xids.unsaved or depth >= Depth.WINDOW):
            self._log.save()
            self._xids.unsaved = False
        poll = await self._inner.poll(timeout_ms, depth)
        now_s, process = _now_s(), self._inner.process
        bus_ids = self._addresses()
        events = self._xids.settle(poll, now_s)
        seen = (poll.driver, process, poll.host.get("gpu_count"), len(poll.gpus), bus_ids)
        watched = bool(events or self._anew or self._losses.any or self._guests)
        host: dict[str, Sample] = {}
        tenancy: dict[bytes, Tenancy | Reason] | None = None
        if depth >= Depth.WINDOW or watched or seen != self._seen:
            bus = self._bus.look()
            tenancy = _tenancies(bus, bus_ids)
            self._take(tenancy, bus)
            absent = self._absent(poll, bus, bus_ids)
            self._anew = self._to_look_for(absent, poll)
            host, happened = self._compare(poll, bus, bus_ids, absent - self._anew)
            events += happened
            anew = {subject for subject, address in bus_ids.items() if address in self._anew}
            events = self._losses.settle(poll, events, self._tenancies, anew, now_s)
        self._seen = seen
        if depth is Depth.DAY or self._platform.due(poll, process):
            host |= await self._platform.read(poll, process)
            self._origin = ""
        host |= self._log_field()
        if self._anew and not self._paused:
            await self._inner.pause()
            if not self._paused:  # nobody else asked for it meanwhile
                await self._inner.resume()
        if tenancy is None and not host and len(events) == len(poll.events):
            return poll
        return replace(
            poll,
            host={**poll.host, **host},
            gpus=poll.gpus if tenancy is None else self._readings(poll, tenancy, depth),
            events=tuple(events),
        )

    def _addresses(self) -> Mapping[bytes, str]:
        """Where each known GPU is or was, as sysfs writes it."""
        told = self._inner.bus_ids
        if told != self._told:
            self._told = dict(told)
            self._bus_ids = _normal(told)
            self._xids.know(self._bus_ids)
            self._places.keep(self._bus_ids)
        return self._bus_ids

    def _take(self, tenancy: Mapping[bytes, Tenancy | Reason], bus: Bus | Reason) -> None:
        self._tenancies = {s: t for s, t in tenancy.items() if isinstance(t, Tenancy)}
        places = self._places.without(self._bus_ids)
        self._guests = [
            *(s for s, who in self._tenancies.items() if who is Tenancy.PASSED_THROUGH),
            *(s for s, place in places.items() if _passed_through(bus, place)),
        ]

    async def attest(self, nonce: bytes) -> Attestation:
        """What the driver's GPUs answered when they were asked for evidence."""
        return await self._inner.attest(nonce)

    async def pause(self) -> None:
        """See GpuSource. The kernel's log is no handle of a device: it is read on."""
        self._paused = True
        await self._inner.pause()

    async def resume(self) -> None:
        """See GpuSource."""
        self._paused = False
        await self._inner.resume()

    async def close(self) -> None:
        """See GpuSource."""
        self._paused = True
        if self._xids.delivered:
            self._log.save()
        self._log.close()
        await self._inner.close()

    def _log_field(self) -> dict[str, Sample]:
        """Where Xids are read from, when that is news."""
        origin = self._log.origin if self._log.began else self._offered
        if origin == self._origin:
            return {}
        self._origin = origin
        return {"kernel_log": origin}

    def _absent(
        self, poll: Poll, bus: Bus | Reason, bus_ids: Mapping[bytes, str]
    ) -> frozenset[str]:
        """Addresses that the driver has on the bus, and does not show in this poll."""
        if isinstance(bus, Reason) or not _listed(poll):
            return frozenset()
        given_away = {bus_ids[subject] for subject in self._losses.subjects if subject in bus_ids}
        unknown = hidden(bus, frozenset(bus_ids.values()), self._given)
        return frozenset(
            address
            for address in (*given_away, *unknown)
            if address in bus and bus[address].tenancy is Tenancy.HOST
        )

    def _to_look_for(self, absent: frozenset[str], poll: Poll) -> frozenset[str]:
        """Those of them that the driver's process may be too old to know (rule 3): each once."""
        if not _listed(poll):
            return frozenset()
        fresh = poll.driver is DriverState.RELOADED or self._process != self._inner.process
        self._process = self._inner.process
        self._looked_anew = absent if fresh else self._looked_anew & absent
        anew = absent - self._looked_anew
        self._looked_anew |= anew
        return anew

    def _compare(
        self,
        poll: Poll,
        bus: Bus | Reason,
        bus_ids: Mapping[bytes, str],
        absent: frozenset[str],
    ) -> tuple[dict[str, Sample], list[Happening]]:
        """The driver's list against the bus: the host's fields, and what is new in them."""
        if isinstance(bus, Reason):
            return dict.fromkeys(("pci_gpu_count", "hidden_gpus", "phantom_gpus"), bus), []
        found: dict[str, Sample] = {"pci_gpu_count": len(bus)}
        if not _listed(poll):
            count = poll.host.get("gpu_count")
            why = count if isinstance(count, Reason) else Reason.NOT_SAMPLED
            return found | {"hidden_gpus": why, "phantom_gpus": why}, []
        shown = {
            bus_ids[one.subject]: one.subject
            for one in poll.gpus
            if one.subject in bus_ids and not _is_lost(one)
        }
        odd = {
            EventKind.GPU_HIDDEN: tuple(sorted(absent - set(bus_ids.values()))),
            EventKind.GPU_PHANTOM: tuple(sorted(shown.keys() - bus.keys())),
        }
        happened = [
            Happening(shown.get(address, HOST), kind, 0, poll.at_utc_ms)
            for kind, addresses in odd.items()
            for address in addresses
            if address not in self._odd.get(kind, ())
        ]
        self._odd = {kind: frozenset(addresses) for kind, addresses in odd.items()}
        found["hidden_gpus"] = odd[EventKind.GPU_HIDDEN]
        found["phantom_gpus"] = odd[EventKind.GPU_PHANTOM]
        return found, happened

    def _readings(
        self, poll: Poll, tenancy: Mapping[bytes, Tenancy | Reason], depth: Depth
    ) -> tuple[GpuReading, ...]:
        """Each GPU with its tenancy; given away is not lost."""
        readings = []
        for one in poll.gpus:
            values = one.values
            if self._tenancies.get(one.subject) is Tenancy.PASSED_THROUGH and _is_lost(one):
                values = dict.fromkeys(values, Reason.PASSED_THROUGH)
            values = {**values, "tenancy": _sample(tenancy.get(one.subject))}
            readings.append(GpuReading(one.subject, values))
        if poll.driver is not DriverState.PAUSED:
            # The driver does not list what it does not have, nor anything while it is away.
            listed = {one.subject for one in poll.gpus}
            given_away = dict.fromkeys(names(depth), Reason.PASSED_THROUGH)
            readings.extend(
                GpuReading(subject, {**given_away, "tenancy": int(Tenancy.PASSED_THROUGH)})
                for subject in self._guests
                if subject not in listed
            )
        return tuple(readings)


class _Platform:
    """The library and the kernel's module: once a day, and whenever another may have come."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._library = Library(root)
        self._read_for: int | None = None

    def due(self, poll: Poll, process: int | None) -> bool:
        """Whether the library that was looked at may not be the one in use."""
        if not poll.driver.answers:
            return False
        return process is not None and (
            poll.driver is DriverState.RELOADED or process != self._read_for
        )

    async def read(self, poll: Poll, process: int | None) -> dict[str, Sample]:
        """The platform leaf's fields of both."""
        fields: dict[str, Sample] = {"kernel_module_version": module_version(self._root)}
        if not poll.driver.answers or process is None:
            count = poll.host.get("gpu_count")
            why = count if isinstance(count, Reason) else Reason.NOT_SAMPLED
            keys = ("library_path", "library_inode", "library_sha256", "library_package")
            return fields | dict.fromkeys(keys, why)
        self._read_for = process
        found = await self._library.evidence(process)
        return fields | {
            "library_path": found.path,
            "library_inode": found.inode,
            "library_sha256": found.sha256,
            "library_package": found.package,
        }


def _tenancies(bus: Bus | Reason, bus_ids: Mapping[bytes, str]) -> dict[bytes, Tenancy | Reason]:
    if isinstance(bus, Reason):
        return dict.fromkeys(bus_ids, bus)
    return {
        subject: bus[address].tenancy if address in bus else Tenancy.GONE
        for subject, address in bus_ids.items()
    }


def _normal(bus_ids: Mapping[bytes, str]) -> dict[bytes, str]:
    """Addresses as sysfs writes them. Where a GPU is on no bus its address is all zeros."""
    found = {subject: pci_address(bus_id) for subject, bus_id in bus_ids.items()}
    return {
        subject: address
        for subject, address in found.items()
        if address is not None and address.strip("0:.")
    }


def _sample(tenancy: Tenancy | Reason | None) -> Sample:
    if tenancy is None:
        return Reason.NOT_SUPPORTED
    return tenancy if isinstance(tenancy, Reason) else int(tenancy)


def _passed_through(bus: Bus | Reason, address: str) -> bool:
    return (
        not isinstance(bus, Reason)
        and address in bus
        and bus[address].tenancy is Tenancy.PASSED_THROUGH
    )


def _listed(poll: Poll) -> bool:
    """Whether the driver said which GPUs it has: one that sleeps is not asked."""
    return poll.driver.answers and not isinstance(poll.host.get("gpu_count"), Reason)


def _is_lost(reading: GpuReading) -> bool:
    """Whether the driver has it no more: all that was to be read is GPU_LOST."""
    first = next(iter(reading.values.values()), None)
    return first is Reason.GPU_LOST and all(
        sample is Reason.GPU_LOST for sample in reading.values.values()
    )


def _now_s() -> float:
    return asyncio.get_running_loop().time()
