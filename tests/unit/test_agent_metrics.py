"""What Prometheus sees: every field of every GPU by its name and unit, or why it has no value."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

import pytest
import structlog
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from assay_agent.config import MetricsConfig
from assay_agent.known import Known, Told
from assay_agent.metrics import AgentMetrics
from assay_agent.metrics.table import ELSEWHERE, GPU_INFO, PLATFORM_INFO, READINGS
from assay_agent.metrics.words import WORDS
from assay_agent.telemetry.reading import GpuReading, Poll
from assay_core import codec
from assay_core.evidence.bundle import Outcome
from assay_core.header import Source
from assay_core.leaves import (
    Content,
    DriverState,
    Group,
    Incident,
    IncidentKind,
    MigInstance,
    Reason,
    Severity,
    Tenancy,
)

IDENTITY = codec.fields_of(Group.IDENTITY)
NOW_MS = 1_790_000_000_000
OF_A_GPU = (Group.IDENTITY, Group.HEALTH, Group.CONDITION, Group.USE)
A, B = b"\x01" * 16, b"\x02" * 16
UUID_A = "GPU-01010101-0101-0101-0101-010101010101"


@dataclass(frozen=True)
class Draft:
    contents: tuple[Content, ...]


def values(**changed):
    """Every field of a GPU, as a poll at full depth yields them."""
    found = {}
    for group in OF_A_GPU:
        for name, field in codec.fields_of(group).items():
            if name in ("polls", "events", "incidents", "energy_lifetime_mj"):
                continue
            if field.is_repeated if hasattr(field, "is_repeated") else field.label == 3:
                found[name] = (1, 2, 3)
            elif field.message_type is None and field.cpp_type == field.CPPTYPE_STRING:
                found[name] = f"{name} of a GPU"
            else:
                found[name] = 7
    found["mig_instances"] = (
        MigInstance(1, 10_240, (50, 40, 30, 20, 10)),
        MigInstance(2, 10_240, Reason.NOT_SUPPORTED),
    )
    found["tenancy"] = int(Tenancy.HOST)
    found["pci_bus_id"] = "0000:1b:00.0"
    assert changed.keys() <= found.keys()
    return found | changed


def poll(*gpus, driver=DriverState.RUNNING, at_ms=NOW_MS, **host):
    host = {"driver_version": "590.48", "nvml_version": "13", "gpu_count": len(gpus)} | host
    return Poll(at_ms, 1_000, driver, host, 0, tuple(GpuReading(*gpu) for gpu in gpus), ())


def draft(subject, *incidents, energy_mj=5_000):
    contents = (
        Content(subject, Group.HEALTH, {"incidents": incidents}),
        Content(subject, Group.USE, {"energy_lifetime_mj": energy_mj}),
    )
    return Draft(contents)


def incident(kind, code, severity, *, begin_ms=NOW_MS, end_ms=None, count=1):
    return Incident(kind, code, severity, begin_ms, NOW_MS, end_ms, count)


def series(metrics: AgentMetrics) -> dict[str, dict[frozenset, float]]:
    """What is served, by two parsers that must agree."""
    found = []
    for text, parse in (
        ("".join(metrics.pages(openmetrics=False)), text_string_to_metric_families),
        ("".join(metrics.pages(openmetrics=True)), openmetrics.text_string_to_metric_families),
    ):
        said: dict[str, dict[frozenset, float]] = {}
        for family in parse(text):
            assert family.documentation, family.name
            for sample in family.samples:
                rows = said.setdefault(sample.name, {})
                key = frozenset(sample.labels.items())
                assert key not in rows, f"{sample.name}{sample.labels} twice"
                rows[key] = sample.value
        found.append(said)
    for said in found:  # CPU time moves on between the two
        said.pop("process_cpu_seconds_total")
        said.pop("process_virtual_memory_bytes")
        said.pop("process_resident_memory_bytes")
    assert found[0] == found[1]
    return found[0]


def one(found, name, /, **labels):
    rows = [
        value for key, value in found.get(name, {}).items() if labels.items() <= dict(key).items()
    ]
    assert len(rows) == 1, f"{name}{labels}: {rows}"
    return rows[0]


@pytest.fixture
def metrics() -> AgentMetrics:
    return AgentMetrics(Source.NVML, MetricsConfig(dcgm_names=True))


def test_every_field_of_the_schema_has_words_and_a_place():
    every = {name for group in Group for name in codec.fields_of(group)}
    assert WORDS.keys() == every
    of_a_gpu = {name for group in OF_A_GPU for name in codec.fields_of(group)}
    assert {reading.field for reading in READINGS} | set(GPU_INFO) | ELSEWHERE == of_a_gpu
    assert set(codec.fields_of(Group.PLATFORM)) <= set(PLATFORM_INFO)
    names = [reading.family.name for reading in READINGS]
    assert len(set(names)) == len(names)


def test_every_field_is_a_series_in_base_units(metrics):
    metrics.take(poll((A, values(temperature_mc=41_500, gpu_utilisation_bps=9_950))))
    found = series(metrics)
    for reading in READINGS:
        rows = found[reading.family.series]
        assert rows, reading.field
        assert all(dict(key)["gpu"] == UUID_A for key in rows)
        assert all(dict(key)["bus_id"] == "0000:1b:00.0" for key in rows)
    assert one(found, "assay_gpu_temperature_celsius") == 41.5
    assert one(found, "assay_gpu_utilisation_ratio") == 0.995
    assert one(found, "assay_gpu_power_watts") == 0.007
    assert one(found, "assay_gpu_energy_joules_total") == 0.007
    assert one(found, "assay_gpu_sm_clock_hertz") == 7_000_000
    assert one(found, "assay_gpu_sm_activity_ratio") == 0.07
    assert one(found, "assay_gpu_pcie_tx_bytes_per_second") == 7 * 1024**2
    assert one(found, "assay_gpu_slowdown_power_seconds_total") == 7e-9
    assert one(found, "assay_gpu_odometer_seconds_total") == 7
    assert one(found, "assay_gpu_nvlink_speed_bytes_per_second", link="2") == 3_000_000
    assert one(found, "assay_gpu_info", serial="serial of a GPU") == 1
    assert one(found, "assay_gpu_tenancy", tenancy="host") == 1
    assert one(found, "assay_gpu_tenancy", tenancy="passed_through") == 0
    assert one(found, "assay_gpu_clocks_event_reason", reason="software_power_cap") == 1
    assert one(found, "assay_gpu_clocks_event_reason", reason="sync_boost") == 0
    assert one(found, "assay_gpu_mig_instance_sm_activity_ratio", gpu_instance="1") == 0.4
    assert len(found["assay_gpu_mig_instance_memory_bytes"]) == 2
    assert one(found, "assay_platform_info", driver_version="590.48") == 1
    assert "assay_gpu_field_absent" not in found
    assert "assay_gpu_unread" not in found


def test_a_bit_error_rate_is_unpacked(metrics):
    metrics.take(poll((A, values(nvlink5_raw_ber=(0x50C, 0)))))
    found = series(metrics)
    assert one(found, "assay_gpu_nvlink5_raw_ber_ratio", link="0") == 5e-12
    assert one(found, "assay_gpu_nvlink5_raw_ber_ratio", link="1") == 0


def test_a_field_without_a_value_has_a_reason_and_no_series(metrics):
    metrics.take(
        poll((A, values(temperature_mc=Reason.NO_PERMISSION, nvlink_states=Reason.NOT_SUPPORTED)))
    )
    found = series(metrics)
    assert "assay_gpu_temperature_celsius" not in found
    assert one(found, "assay_gpu_field_absent", field="temperature_mc", reason="no_permission") == 1
    assert one(found, "assay_gpu_field_absent", field="nvlink_states", reason="not_supported") == 1
    assert len(found["assay_gpu_field_absent"]) == 2


def test_a_field_that_was_not_due_keeps_its_last_value(metrics):
    metrics.take(poll((A, values(ecc_sram_l2=3))))
    metrics.take(poll((A, {"temperature_mc": 50_000})))
    found = series(metrics)
    assert one(found, "assay_gpu_temperature_celsius") == 50
    assert one(found, "assay_gpu_ecc_sram_l2_total") == 3


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (poll((A, dict.fromkeys(values(), Reason.GPU_LOST))), "gpu_lost"),
        (poll(), "gpu_lost"),
        (poll((A, dict.fromkeys(values(), Reason.ASLEEP))), "asleep"),
        (
            poll((A, values() | dict.fromkeys(values(), Reason.PASSED_THROUGH) | {"tenancy": 2})),
            "passed_through",
        ),
        (poll(driver=DriverState.UNRESPONSIVE), "driver_unresponsive"),
        (poll(driver=DriverState.ABSENT), "driver_absent"),
        (poll(driver=DriverState.PAUSED), "in_maintenance"),
    ],
)
def test_a_gpu_that_is_not_read_shows_no_reading_and_stays_known(metrics, then, reason):
    metrics.take(poll((A, values()), (B, values(serial="other"))))
    metrics.take(then)
    found = series(metrics)
    assert one(found, "assay_gpu_up", gpu=UUID_A) == 0
    assert one(found, "assay_gpu_unread", gpu=UUID_A, reason=reason) == 1
    assert one(found, "assay_gpu_info", gpu=UUID_A, serial="serial of a GPU") == 1
    assert one(found, "assay_gpu_up", gpu=UUID_A, bus_id="0000:1b:00.0") == 0  # an alert says where
    for reading in READINGS:
        assert reading.family.series not in found
    assert "assay_gpu_field_absent" not in found
    assert one(found, "assay_gpu_read_timestamp_seconds", gpu=UUID_A) == NOW_MS / 1000

    metrics.take(poll((A, values())))
    found = series(metrics)
    assert one(found, "assay_gpu_up", gpu=UUID_A) == 1
    assert one(found, "assay_gpu_temperature_celsius") == 0.007


def test_a_gpu_that_was_lost_before_this_start_is_shown_by_name(metrics):
    identity = {name: text for name, text in values().items() if name in IDENTITY}
    metrics.know([Known(b"", 0), Known(A, 0, {Group.IDENTITY: Told(identity, 0)}), Known(B, 0)])
    metrics.take(poll((B, values())))
    found = series(metrics)
    at = {"gpu": UUID_A, "bus_id": "0000:1b:00.0"}
    assert one(found, "assay_gpu_up", **at) == 0
    assert one(found, "assay_gpu_unread", **at, reason="gpu_lost") == 1
    assert one(found, "assay_gpu_info", **at, serial="serial of a GPU") == 1
    assert len(found["assay_gpu_up"]) == 2


def test_what_was_read_before_a_loss_is_not_shown_after_it(metrics):
    metrics.take(poll((A, values(ecc_sram_l2=3))))
    metrics.take(poll((A, dict.fromkeys(values(), Reason.GPU_LOST))))
    metrics.take(poll((A, {"temperature_mc": 50_000})))
    found = series(metrics)
    assert one(found, "assay_gpu_temperature_celsius") == 50
    assert "assay_gpu_ecc_sram_l2_total" not in found


def test_open_incidents_are_shown_and_those_that_ended_are_not(metrics):
    metrics.take(poll((A, values())))
    xid = incident(IncidentKind.XID, 79, Severity.IMPAIRED, begin_ms=NOW_MS - 5_000, count=3)
    again = incident(IncidentKind.XID, 79, Severity.DEGRADED)
    over = incident(IncidentKind.XID, 13, Severity.USER_ERROR, end_ms=NOW_MS)
    metrics.sealed_window(draft(A, again, xid, over))
    found = series(metrics)
    labels = {"kind": "xid", "code": "79", "severity": "impaired", "gpu": UUID_A}
    assert one(found, "assay_gpu_incident", **labels) == 1
    assert one(found, "assay_gpu_incident_begin_timestamp_seconds", **labels) == NOW_MS / 1000 - 5
    assert one(found, "assay_gpu_incident_occurrences", **labels) == 3
    assert len(found["assay_gpu_incident"]) == 1
    assert one(found, "assay_gpu_energy_lifetime_joules_total") == 5
    assert one(found, "DCGM_FI_DEV_XID_ERRORS", UUID=UUID_A) == 79
    metrics.sealed_window(draft(A, energy_mj=Reason.NOT_SUPPORTED))
    found = series(metrics)
    assert "assay_gpu_incident" not in found
    assert "DCGM_FI_DEV_XID_ERRORS" not in found
    assert "assay_gpu_energy_lifetime_joules_total" not in found


def test_a_gpu_known_only_from_windows_is_shown(metrics):
    metrics.sealed_window(draft(B, incident(IncidentKind.GPU_LOST, 0, Severity.IMPAIRED)))
    metrics.take(poll((A, values())))
    found = series(metrics)
    assert one(found, "assay_gpu_incident", kind="gpu_lost") == 1
    assert one(found, "assay_gpu_up", gpu="GPU-02020202-0202-0202-0202-020202020202") == 0


def test_dcgm_names_have_dcgm_units_and_labels(metrics):
    metrics.take(
        poll((A, values(temperature_mc=41_000, power_mw=690_500, index=3, minor_number=4)))
    )
    found = series(metrics)
    labels = {"gpu": "3", "device": "nvidia4", "UUID": UUID_A, "modelName": "name of a GPU"}
    assert one(found, "DCGM_FI_DEV_GPU_TEMP", **labels) == 41
    assert one(found, "DCGM_FI_DEV_POWER_USAGE", **labels) == 690.5
    assert one(found, "DCGM_FI_PROF_PCIE_TX_BYTES", **labels) == 7 * 1024**2
    assert not any("Hostname" in dict(key) for rows in found.values() for key in rows)


def test_dcgm_names_are_off_by_default():
    metrics = AgentMetrics(Source.NVML)
    metrics.take(poll((A, values())))
    assert not any(name.startswith("DCGM") for name in series(metrics))


def test_what_is_not_known_of_the_agent_is_absent(metrics):
    found = series(metrics)
    assert "assay_agent_clock_offset_seconds" not in found
    assert "assay_agent_last_sealed_timestamp_seconds" not in found
    assert "assay_agent_gpus" not in found
    assert one(found, "assay_agent_polls_total") == 0
    assert one(found, "assay_agent_windows_sealed_total", close_reason="event") == 0
    metrics.take(poll((A, values()), hidden_gpus=("0000:2b:00.0",), pci_gpu_count=2))
    metrics.clock_offset.set(-0.25)
    found = series(metrics)
    assert one(found, "assay_agent_gpus") == 1
    assert one(found, "assay_agent_hidden_gpus") == 1
    assert one(found, "assay_agent_clock_offset_seconds") == -0.25
    assert one(found, "assay_agent_driver_state", state="running") == 1
    assert one(found, "assay_agent_driver_state", state="absent") == 0
    metrics.take(poll(driver=DriverState.ABSENT, gpu_count=Reason.DRIVER_ABSENT))
    assert "assay_agent_gpus" not in series(metrics)


def test_evidence_that_the_valuer_did_not_judge_is_not_counted_as_refused(metrics):
    """A valuer that restarts knows no challenge of before, and answers that are late are no lie."""
    name = "assay_agent_evidence_answers_total"
    results = ("accepted", "refused", "not_judged")
    assert [one(series(metrics), name, result=each) for each in results] == [0, 0, 0]
    for outcome in Outcome:
        metrics.count_evidence(outcome.value)
    not_judged = 3  # late, unknown_challenge, unavailable
    told = [one(series(metrics), name, result=each) for each in results]
    assert told == [1, len(Outcome) - 1 - not_judged, not_judged]


def test_names_from_the_library_cannot_break_the_page(metrics):
    nasty = 'H100 "x"} 1\\\nassay_agent_polls_total 9'
    metrics.take(poll((A, values(name=nasty))))
    found = series(metrics)
    assert one(found, "assay_gpu_info", name=nasty) == 1
    assert one(found, "assay_agent_polls_total") == 1


def test_counts_too_large_for_a_float_are_written_as_they_are(metrics):
    metrics.take(poll((A, values(pcie_replays=2**53 + 1))))
    assert f"}} {2**53 + 1}\n" in "".join(metrics.pages(openmetrics=False))


def test_gpus_and_incidents_are_bounded(metrics):
    metrics.take(poll(*((bytes([n]) * 16, {"temperature_mc": 1}) for n in range(1, 200))))
    metrics.sealed_window(
        draft(A, *(incident(IncidentKind.XID, n, Severity.DEGRADED) for n in range(256)))
    )
    found = series(metrics)
    assert len(found["assay_gpu_up"]) == 128
    assert len(found["assay_gpu_incident"]) == 32


def test_promtool_finds_nothing_wrong(metrics, requires_tool):
    metrics = AgentMetrics(Source.NVML)  # DCGM's names are not ours to mend
    metrics.take(poll((A, values(temperature_mc=Reason.NO_PERMISSION)), (B, values())))
    metrics.take(poll((A, values(temperature_mc=Reason.NO_PERMISSION))))
    metrics.sealed_window(draft(A, incident(IncidentKind.XID, 79, Severity.IMPAIRED)))
    done = subprocess.run(
        [requires_tool("promtool"), "check", "metrics"],
        input="".join(metrics.pages(openmetrics=False)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_textfile_is_replaced_whole(tmp_path):
    path = tmp_path / "assay.prom"
    metrics = AgentMetrics(Source.NVML, MetricsConfig(textfile=str(path)))
    metrics.take(poll((A, values())))
    assert not path.exists()
    metrics.sealed_window(draft(A))
    first = path.stat().st_ino
    assert path.stat().st_mode & 0o777 == 0o644
    assert "assay_gpu_temperature_celsius{" in path.read_text()
    assert list(text_string_to_metric_families(path.read_text()))
    metrics.sealed_window(draft(A))
    assert path.stat().st_ino != first
    assert [entry.name for entry in tmp_path.iterdir()] == ["assay.prom"]


def test_a_textfile_that_cannot_be_written_is_told_once(tmp_path):
    metrics = AgentMetrics(Source.NVML, MetricsConfig(textfile=str(tmp_path / "none" / "a.prom")))
    with structlog.testing.capture_logs() as logs:
        metrics.sealed_window(draft(A))
        metrics.sealed_window(draft(A))
    assert [log["event"] for log in logs] == ["textfile"]
    assert "a.prom" in logs[0]["detail"]
