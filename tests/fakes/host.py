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
    Tenancy,
    Value,
)
from assay_core.seal import (
    Ed25519Signer,
    Envelope,
    Link,
    Sealed,
    Signer,
    seal_gap,
    seal_window,
)

WINDOW_MS = 300_000
START_MS = 1_790_000_000_000
_NO = Reason.NOT_SUPPORTED
_ROOT = Reason.NO_PERMISSION


@dataclass
class FakeGpu:
    """One GPU that is read as a busy H100 would be; its numbers wander with the seed."""

    uuid: bytes
    random: random.Random
    serial: str = ""
    energy_mj: int = 10**12
    base_mw: int = 450_000
    lifetime_mj: int = 0
    capped_ns: int = 0
    checksum: int = 0

    def __post_init__(self) -> None:
        self.checksum = self.random.getrandbits(32)
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
                "board_id": 0x1800,
                "module_id": 1,
                "minor_number": 0,
                "index": 0,
                "power_limit_min_mw": 200_000,
                "power_limit_max_mw": 700_000,
                "pcie_generation_max": 5,
                "pcie_width_max": 16,
                "tlimit_shutdown_mc": -8_000,
                "tlimit_slowdown_mc": -2_000,
                "tlimit_memory_max_mc": 0,
                "tlimit_gpu_max_mc": 0,
                "nvlink_count": 18,
                "attestation_certificate_sha256": Reason.NOT_SUPPORTED,
                "chassis_serial": Reason.NOT_SUPPORTED,
                "slot_number": Reason.NOT_SUPPORTED,
                "tray_index": Reason.NOT_SUPPORTED,
                "platform_host_id": Reason.NOT_SUPPORTED,
                "platform_module_id": Reason.NOT_SUPPORTED,
            },
        )

    def condition(self) -> Content:
        names = codec.fields_of(Group.CONDITION)
        values: dict[str, Value] = dict.fromkeys(names, 0)
        values |= dict.fromkeys((n for n in names if n.startswith("nvlink5_")), _NO)
        values |= dict.fromkeys((n for n in names if n.startswith("ecc_sram_")), _ROOT)
        values |= dict.fromkeys((n for n in names if n.startswith("retired_")), _NO)
        values |= {
            "remap_banks_max": 2_560,
            "remapped_rows_corrected_inactive": Reason.SYMBOL_MISSING,
            "remapped_rows_uncorrected_inactive": Reason.SYMBOL_MISSING,
            "inforom_valid": 1,
            "inforom_checksum": self.checksum,
            "odometer_s": Reason.SYMBOL_MISSING,
            "bbx_flush_utc_ms": _NO,
            "power_smoothing_lifetime_pct": _NO,
            "nvlink_states": (1,) * 18,
            "nvlink_speeds_mbps": (26_562,) * 18,
            "nvlink_replay_errors": (0,) * 18,
            "nvlink_recovery_errors": (0,) * 18,
            "nvlink_crc_errors": (0,) * 18,
            "fabric_cluster_uuid": _NO,
            "fabric_clique_id": _NO,
            "fabric_state": 0,
            "fabric_health_mask": _NO,
            "fabric_health_summary": _NO,
            "persistence_mode": 1,
        }
        return _content(self.uuid, Group.CONDITION, values)

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
                "temperature_margin_min_mc": 1_000 * self.random.randint(20, 35),
                "slowdown_power_ns": self.capped(),
                "slowdown_thermal_ns": zero,
                "slowdown_software_thermal_ns": zero,
                "slowdown_hardware_thermal_ns": zero,
                "slowdown_power_brake_ns": zero,
                "pcie_replays": zero,
                "pcie_generation": 5,
                "pcie_width": 16,
                "tenancy": int(Tenancy.HOST),
                "incidents": (),
            },
        )

    def capped(self) -> Counter:
        """Time under the power cap: in one window of four, some."""
        delta = self.random.choice((0, 0, 0, self.random.randrange(10**10)))
        self.capped_ns += delta
        return Counter(delta, self.capped_ns)

    def use(self) -> Content:
        power = self.gauge(self.base_mw, 60_000)
        delta = power.mean * 300
        self.energy_mj += delta
        self.lifetime_mj += delta
        busy = self.random.randint(70, 99)
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
                "power_instant_max_mw": power.max + self.random.randrange(20_000),
                "energy_lifetime_mj": self.lifetime_mj,
                "compute_process_count": 1,
                "pcie_tx_bytes": self.random.randrange(10**11),
                "pcie_rx_bytes": self.random.randrange(10**11),
                "graphics_activity_pct": busy,
                "sm_activity_pct": busy - self.random.randint(0, 5),
                "sm_occupancy_pct": self.random.randint(20, 45),
                "tensor_activity_pct": self.random.randint(15, 50),
                "dram_activity_pct": self.random.randint(15, 50),
                "fp64_activity_pct": 0,
                "fp32_activity_pct": self.random.randint(0, 9),
                "fp16_activity_pct": self.random.randint(0, 30),
                "pcie_tx_mibps": self.random.randrange(400),
                "pcie_rx_mibps": self.random.randrange(400),
                "nvlink_tx_mibps": self.random.randrange(50_000, 200_000),
                "nvlink_rx_mibps": self.random.randrange(50_000, 200_000),
                "mig_instances": (),
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
    signer: Signer = field(init=False)
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
                "pci_gpu_count": len(self.gpus),
                "hidden_gpus": (),
                "phantom_gpus": (),
                "clock_step_ms": 0,
            },
        )
        found = [host]
        if shown:
            found.append(self.platform())
        for gpu in self.gpus:
            if shown:
                found += [gpu.identity(), gpu.condition()]
            found += [gpu.health(self.window_ms // 5_000 or 1), gpu.use()]
        return tuple(found)

    def platform(self) -> Content:
        return _content(
            HOST,
            Group.PLATFORM,
            {
                "kernel_module_version": "570.133.20",
                "library_path": "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.570.133.20",
                "library_inode": 1_234_567,
                "library_sha256": "ab" * 32,
                "library_package": "libnvidia-compute-570 570.133.20-0ubuntu1",
                "cc_feature": 0,
                "cc_environment": 0,
                "cc_devtools": 0,
                "cc_multi_gpu_mode": 0,
                "cc_gpus_ready": _NO,
                "cuda_driver_version": 12_080,
                "health_rules": "0011223344556677",
                "kernel_log": "journal",
            },
        )

    def seal(
        self,
        *,
        contents: Sequence[Content] | None = None,
        answered: bytes = b"",
        end_ms: int | None = None,
        signer: Signer | None = None,
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
