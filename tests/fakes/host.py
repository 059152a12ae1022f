"""A GPU host without an agent: it seals what it is told to, and knows its own chain."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay_core import codec
from assay_core.header import CloseReason, GapCause, GapRecord, Period, Source
from assay_core.leaves import (
    HOST,
    Content,
    Counter,
    DriverState,
    Gauge,
    Group,
    Reason,
    Value,
)
from assay_core.seal import Ed25519Signer, Envelope, Link, Sealed, seal_gap, seal_window

WINDOW_MS = 300_000
START_MS = 1_790_000_000_000


@dataclass
class FakeGpu:
    """One GPU that is read as a busy H100 would be; its numbers wander with the seed."""

    uuid: bytes
    random: random.Random
    serial: str = ""
    energy_mj: int = 10**12
    base_mw: int = 450_000

    def __post_init__(self) -> None:
        self.serial = self.serial or f"16522{self.random.randrange(10**8):08d}"
        self.energy_mj += self.random.randrange(10**11)
        self.base_mw += self.random.randrange(-150_000, 200_000)

    def gauge(self, centre: int, spread: int) -> Gauge:
        low, mean, high = sorted(
            max(0, centre + self.random.randint(-spread, spread)) for _ in range(3)
        )
        return Gauge(low, mean, high)

    def identity(self) -> Content:
        return _content(
            self.uuid,
            Group.IDENTITY,
            {
                "name": "NVIDIA H100 80GB HBM3",
                "serial": self.serial,
                "board_part_number": "692-2G520-0200-000",
                "pdi": self.random.getrandbits(64),
                "vbios_version": "96.00.89.00.01",
                "inforom_image_version": "G520.0200.00.05",
                "pci_bus_id": "00000000:18:00.0",
                "pci_device_id": 0x233010DE,
                "pci_subsystem_id": 0x16C110DE,
                "memory_total_bytes": 85_520_809_984,
                "power_limit_default_mw": 700_000,
                "architecture": 9,
            },
        )

    def health(self, polls: int) -> Content:
        zero = Counter(0, 0)
        return _content(
            self.uuid,
            Group.HEALTH,
            {
                "polls": polls,
                "temperature_mc": _thousands(self.gauge(55, 4)),
                "memory_temperature_mc": _thousands(self.gauge(66, 4)),
                "ecc_enabled": 1,
                "ecc_corrected_volatile": zero,
                "ecc_uncorrected_volatile": zero,
                "ecc_corrected_aggregate": zero,
                "ecc_uncorrected_aggregate": zero,
                "remapped_rows_corrected": zero,
                "remapped_rows_uncorrected": zero,
                "remap_pending": 0,
                "remap_failed": 0,
                "recovery_action": 0,
                "events": (),
            },
        )

    def use(self) -> Content:
        power = self.gauge(self.base_mw, 60_000)
        delta = power.mean * 300
        self.energy_mj += delta
        return _content(
            self.uuid,
            Group.USE,
            {
                "gpu_utilisation_bps": _hundreds(self.gauge(90, 10)),
                "memory_utilisation_bps": _hundreds(self.gauge(45, 10)),
                "memory_used_bytes": Gauge(*[self.random.choice((70, 71)) * 2**30] * 3),
                "power_mw": power,
                "power_limit_mw": Gauge(700_000, 700_000, 700_000),
                "energy_mj": Counter(delta, self.energy_mj),
                "sm_clock_mhz": self.gauge(1_900, 80),
                "memory_clock_mhz": Gauge(2_619, 2_619, 2_619),
                "clocks_event_reasons": self.random.choice((0, 4)),
                "performance_state": 0,
            },
        )


@dataclass
class FakeHost:
    """A host with its sealing key and its own idea of where its chain is."""

    seed: int = 7
    gpu_count: int = 8
    host_id: str = "spiffe://assay.test/site/lab/host/0"
    incarnation: int = 0
    sequence: int = 0
    previous: bytes = b""
    now_ms: int = START_MS
    window_ms: int = WINDOW_MS
    source: Source = Source.NVML
    signer: Ed25519Signer = field(init=False)
    gpus: list[FakeGpu] = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.signer = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(self.random.randbytes(32)))
        self.booted_ms = self.now_ms - 10**9
        self.boot_id = self.random.randbytes(16)
        self.gpus = [FakeGpu(self.random.randbytes(16), self.random) for _ in range(self.gpu_count)]

    def reinstall(self, incarnation: int, previous: bytes) -> None:
        """A new key and a chain from 0, as a fresh installation has."""
        self.signer = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(self.random.randbytes(32)))
        self.incarnation, self.sequence, self.previous = incarnation, 0, previous

    def contents(self, *, identity: bool | None = None) -> tuple[Content, ...]:
        shown = self.sequence == 0 if identity is None else identity
        host = _content(
            HOST,
            Group.HOST,
            {
                "driver_state": int(DriverState.RUNNING),
                "driver_version": "570.133.20",
                "nvml_version": "12.570.133.20",
                "gpu_count": len(self.gpus),
                "polls": self.window_ms // 5_000 or 1,
                "abandoned_processes": 0,
                "maintenance_until_ms": Reason.NOT_SAMPLED,
                "missing_gpus": (),
                "events": (),
            },
        )
        found = [host]
        for gpu in self.gpus:
            if shown:
                found.append(gpu.identity())
            found += [gpu.health(self.window_ms // 5_000 or 1), gpu.use()]
        return tuple(found)

    def seal(
        self,
        *,
        contents: Sequence[Content] | None = None,
        answered: bytes = b"",
        end_ms: int | None = None,
        signer: Ed25519Signer | None = None,
        advance: bool = True,
    ) -> Sealed:
        """The next window of the chain; with advance=False the chain stays where it is."""
        begin = self.now_ms if end_ms is None else end_ms - self.window_ms
        sealed = seal_window(
            self.contents() if contents is None else contents,
            link=Link(
                self.host_id,
                self.incarnation,
                self.boot_id,
                self.sequence,
                self.previous,
                answered,
            ),
            period=Period(
                begin,
                begin + self.window_ms,
                max(0, begin - self.booted_ms),
                max(0, begin - self.booted_ms) + self.window_ms,
            ),
            source=self.source,
            close_reason=CloseReason.PERIOD,
            agent_version="0.1.0",
            secret=self.random.randbytes(32),
            signer=signer or self.signer,
        )
        if advance:
            self.sequence += 1
            self.previous = sealed.hash
            self.now_ms = begin + self.window_ms
        return sealed

    def gap(self, windows: int) -> Envelope:
        """Drops the next `windows` windows and declares it."""
        first, previous, begin = self.sequence, self.previous, self.now_ms
        for _ in range(windows):
            self.seal()
        return seal_gap(
            GapRecord(
                host_id=self.host_id,
                incarnation=self.incarnation,
                boot_id=self.boot_id,
                first_sequence=first,
                last_sequence=self.sequence - 1,
                previous_header_hash=previous,
                last_dropped_hash=self.previous,
                begin_utc_ms=begin,
                end_utc_ms=self.now_ms,
                cause=GapCause.SPOOL_FULL,
            ),
            self.signer,
        )


def _thousands(gauge: Gauge) -> Gauge:
    return Gauge(gauge.min * 1_000, gauge.mean * 1_000, gauge.max * 1_000)


def _hundreds(gauge: Gauge) -> Gauge:
    return Gauge(*(min(10_000, part * 100) for part in (gauge.min, gauge.mean, gauge.max)))


def _content(subject: bytes, group: Group, values: Mapping[str, Value]) -> Content:
    if values.keys() != codec.fields_of(group).keys():
        raise TypeError(f"{group}: {values.keys() ^ codec.fields_of(group).keys()}")
    return Content(subject, group, values)
