"""Makes the golden files: python -m tests.golden.make. Run it only when a schema is added.

Everything that goes in is fixed here, Ed25519 is deterministic, and so the files are too. The
tests check them with an implementation of their own, and that sealing still gives these bytes.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay_core import disclosure, seal
from assay_core.header import CloseReason, GapCause, GapRecord, Period, Source
from assay_core.leaves import (
    HOST,
    Content,
    Counter,
    DriverState,
    Event,
    EventKind,
    Gauge,
    Group,
    Reason,
)
from assay_core.verify import HostTrust

HERE = Path(__file__).parent
HOST_ID = "spiffe://example.test/site/golden/host/0011223344556677"
SIGNER = seal.Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
SECRET = bytes(range(32, 64))
BOOT = bytes(range(64, 80))
GPU = bytes.fromhex("0a1b2c3d4e5f60718293a4b5c6d7e8f9")
BEGIN_MS = 1_795_000_000_000


def contents() -> list[Content]:
    """A host and one GPU: every group, values and reasons, an event, a real zero."""
    identity = Content(
        GPU,
        Group.IDENTITY,
        {
            "name": "NVIDIA H100 80GB HBM3",
            "serial": "1650924000001",
            "board_part_number": "692-2G520-0200-000",
            "pdi": 0xFEDC_BA98_7654_3210,
            "vbios_version": "96.00.A5.00.01",
            "inforom_image_version": "G520.0200.00.05",
            "pci_bus_id": "00000000:18:00.0",
            "pci_device_id": 0x2330_10DE,
            "pci_subsystem_id": 0x16C1_10DE,
            "memory_total_bytes": 85_520_809_984,
            "power_limit_default_mw": 700_000,
            "architecture": 9,
        },
    )
    health = Content(
        GPU,
        Group.HEALTH,
        {
            "polls": 60,
            "temperature_mc": Gauge(30_000, 31_250, 33_000),
            "memory_temperature_mc": Reason.NOT_SUPPORTED,
            "ecc_enabled": 1,
            "ecc_corrected_volatile": Counter(0, 0),
            "ecc_uncorrected_volatile": Counter(0, 0),
            "ecc_corrected_aggregate": Counter(2, 17),
            "ecc_uncorrected_aggregate": Counter(0, 0),
            "remapped_rows_corrected": Counter(0, 0),
            "remapped_rows_uncorrected": Counter(0, 0),
            "remap_pending": 0,
            "remap_failed": 0,
            "recovery_action": Reason.SYMBOL_MISSING,
            "events": (Event(EventKind.XID, 94, BEGIN_MS + 100, BEGIN_MS + 900, 2),),
        },
    )
    use = Content(
        GPU,
        Group.USE,
        {
            "gpu_utilisation_bps": Gauge(0, 5_025, 10_000),
            "memory_utilisation_bps": Gauge(0, 0, 0),
            "memory_used_bytes": Gauge(1 << 30, 3 << 30, 5 << 30),
            "power_mw": Gauge(70_100, 310_000, 699_900),
            "power_limit_mw": Gauge(700_000, 700_000, 700_000),
            "energy_mj": Counter(93_000_000, 1 << 40),
            "sm_clock_mhz": Gauge(345, 1_500, 1_980),
            "memory_clock_mhz": Gauge(2_619, 2_619, 2_619),
            "clocks_event_reasons": 0,
            "performance_state": Reason.NO_PERMISSION,
        },
    )
    host = Content(
        HOST,
        Group.HOST,
        {
            "driver_state": DriverState.RUNNING,
            "driver_version": "590.48.01",
            "nvml_version": "13.590.48.01",
            "gpu_count": 1,
            "polls": 60,
            "abandoned_processes": 0,
            "maintenance_until_ms": Reason.NOT_SAMPLED,
            "missing_gpus": (bytes(range(80, 96)),),
            "events": (),
        },
    )
    return [host, identity, health, use]


def sealed() -> seal.Sealed:
    """The golden window."""
    return seal.seal_window(
        contents(),
        link=seal.Link(HOST_ID, 2, BOOT, 7, bytes([0xAB]) * 32, bytes([0xCD]) * 32),
        period=Period(BEGIN_MS, BEGIN_MS + 300_000, 1_000, 301_000),
        source=Source.NVML,
        close_reason=CloseReason.EVENT,
        agent_version="0.1.0",
        secret=SECRET,
        signer=SIGNER,
    )


def gap() -> seal.Envelope:
    """The golden gap record."""
    return seal.seal_gap(
        GapRecord(
            host_id=HOST_ID,
            incarnation=2,
            boot_id=BOOT,
            first_sequence=8,
            last_sequence=11,
            previous_header_hash=sealed().hash,
            last_dropped_hash=bytes([0xEF]) * 32,
            begin_utc_ms=BEGIN_MS + 300_000,
            end_utc_ms=BEGIN_MS + 1_500_000,
            cause=GapCause.SPOOL_FULL,
        ),
        SIGNER,
    )


def files() -> dict[str, str]:
    """Every golden file by name."""
    window = sealed()
    return {
        "window_v1.json": disclosure.dump(disclosure.disclose(window)),
        "window_v1_health_only.json": disclosure.dump(disclosure.disclose(window, [2])),
        "gap_v1.json": disclosure.dump(disclosure.Disclosure(gap(), ())),
        "trust.json": disclosure.dump_trust([HostTrust(HOST_ID, 2, (SIGNER.public_key,))]),
    }


if __name__ == "__main__":
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8")
