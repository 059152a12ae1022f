"""The table of fields against the schema and the binding, and what it takes for a value."""

import hashlib
import struct
import subprocess
import sys
from collections.abc import Iterator
from ctypes import sizeof

import msgspec
import pynvml
import pytest
from google.protobuf.descriptor import FieldDescriptor

from assay_agent.telemetry import ask, gpm, wire
from assay_agent.telemetry.calls import COUNT_MAX, Call, Field, reason_of
from assay_agent.telemetry.fields import (
    FIELDS,
    TEXT_BYTES_MAX,
    admit,
    at,
    in_bounds,
    names,
    subject_of,
    uuid_of,
)
from assay_agent.telemetry.reading import Depth, Sample
from assay_agent.telemetry.table import (
    CALLS,
    ENTRIES,
    GPM,
    HOST_CALLS,
    HOST_NAMES,
    LINKS,
    MIG_INSTANCES,
    MIG_METRICS,
    PLATFORM_NAMES,
)
from assay_agent.telemetry.tick import CELLS
from assay_core.codec import fields_of
from assay_core.leaves import Group, MigInstance, Reason

GROUPS = (Group.IDENTITY, Group.HEALTH, Group.USE, Group.CONDITION)
NOT_FROM_NVML = {"polls", "events", "incidents", "tenancy", "energy_lifetime_mj"}
"""What the window, the health rules and the PCI bus say."""
PLATFORM_NOT_FROM_NVML = {
    "kernel_module_version",
    "library_path",
    "library_inode",
    "library_sha256",
    "library_package",
    "health_rules",
    "kernel_log",
}

_LIMITS = {
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_SINT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SINT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_MESSAGE: (0, 2**64 - 1),
}


def all_calls() -> Iterator[Call]:
    """Every call of the tables, the older ones among them."""
    for call in (*CALLS, *HOST_CALLS, *(entry.otherwise for entry in ENTRIES)):
        asked = call
        while asked is not None:
            yield asked
            asked = asked.otherwise


def by_group(group: Group) -> dict[str, Field]:
    grouped = [(call.group, field) for call in CALLS for field in call.fields]
    grouped += [(entry.group, entry.field) for entry in ENTRIES]
    grouped += [(Group.CONDITION, link.field) for link in LINKS]
    grouped += [(Group.USE, field) for field in (*(field for _, field in GPM), MIG_INSTANCES)]
    return {field.name: field for of, field in grouped if of is group}


@pytest.mark.parametrize("group", GROUPS)
def test_every_field_of_the_schema_is_read_and_no_other(group: Group) -> None:
    assert by_group(group).keys() == fields_of(group).keys() - NOT_FROM_NVML


def test_every_field_of_the_host_is_read_and_no_other() -> None:
    platform = fields_of(Group.PLATFORM).keys()
    assert set(PLATFORM_NAMES) == platform - PLATFORM_NOT_FROM_NVML
    assert set(HOST_NAMES) <= fields_of(Group.HOST).keys()
    assert [field.name for call in HOST_CALLS for field in call.fields] == [
        *HOST_NAMES[:2],
        *PLATFORM_NAMES,
    ]


@pytest.mark.parametrize("group", GROUPS)
def test_what_is_in_bounds_fits_the_schema(group: Group) -> None:
    for name, descriptor in fields_of(group).items():
        if name in NOT_FROM_NVML:
            continue
        field = FIELDS[name]
        assert field.listed == descriptor.is_repeated, name
        if descriptor.type == FieldDescriptor.TYPE_STRING:
            assert field.high == 0
        else:
            least, most = _LIMITS[descriptor.type]
            assert least <= field.low * field.scale < field.high * field.scale <= most, name


def test_each_field_is_read_once_and_has_its_place() -> None:
    everything = names(Depth.DAY)
    assert len(everything) == len(set(everything)) == len(FIELDS)
    assert set(everything) == {name for group in GROUPS for name in by_group(group)}
    for depth in Depth:
        assert names(depth) == everything[: len(names(depth))]
    assert names(Depth.TICK) == tuple(field.name for field in at(Depth.TICK))
    assert len(names(Depth.TICK)) == CELLS + len(GPM)


@pytest.mark.parametrize("group", [Group.IDENTITY, Group.CONDITION])
def test_what_travels_on_change_is_not_polled(group: Group) -> None:
    assert not by_group(group).keys() & set(names(Depth.TICK))


@pytest.mark.parametrize("group", [Group.HEALTH, Group.USE])
def test_every_window_sees_what_travels_in_every_window(group: Group) -> None:
    assert by_group(group).keys() <= set(names(Depth.WINDOW))


def test_the_binding_names_every_function() -> None:
    """A function that NVIDIA's own binding never names would be a slip of the pen."""
    with open(pynvml.__file__, encoding="utf-8") as file:
        binding = file.read()
    for call in all_calls():
        assert f'"{call.function}"' in binding, call.function


def test_no_field_id_is_asked_twice_or_beyond_what_there_is() -> None:
    ids = [entry.field_id for entry in ENTRIES] + [link.field_id for link in LINKS]
    assert len(ids) == len(set(ids))
    assert max(ids) < pynvml.NVML_FI_MAX


def test_each_call_fills_its_fields() -> None:
    for call in (*CALLS, *HOST_CALLS):
        values: tuple[object, ...] = struct.unpack(
            "<" + call.layout, bytes(struct.calcsize("<" + call.layout))
        )
        answer = values if call.decode is None else call.decode(values)
        assert len(answer if call.says is None else (0,)) == len(call.fields), call.function
        for older in (call.otherwise,) if call.otherwise else ():
            number = len(
                struct.unpack("<" + older.layout, bytes(struct.calcsize("<" + older.layout)))
            )
            assert older.decode is not None or number == len(call.fields), older.function


@pytest.mark.parametrize(
    ("function", "structure"),
    [
        ("nvmlDeviceGetPdi", pynvml.c_nvmlPdi_t),
        ("nvmlDeviceGetPciInfo_v3", pynvml.nvmlPciInfo_t),
        ("nvmlDeviceGetMemoryInfo_v2", pynvml.c_nvmlMemory_v2_t),
        ("nvmlDeviceGetMemoryInfo", pynvml.c_nvmlMemory_t),
        ("nvmlDeviceGetConfComputeGpuCertificate", pynvml.c_nvmlConfComputeGpuCertificate_t),
        ("nvmlDeviceGetPlatformInfo", pynvml.c_nvmlPlatformInfo_v2_t),
        ("nvmlDeviceGetTemperatureV", pynvml.c_nvmlTemperature_v1_t),
        ("nvmlDeviceGetMarginTemperature", pynvml.c_nvmlMarginTemperature_v1_t),
        ("nvmlDeviceGetUtilizationRates", pynvml.c_nvmlUtilization_t),
        ("nvmlDeviceGetSramEccErrorStatus", pynvml.c_nvmlEccSramErrorStatus_v1_t),
        ("nvmlDeviceGetRowRemapperHistogram", pynvml.c_nvmlRowRemapperHistogramValues),
        ("nvmlDeviceGetUnrepairableMemoryFlag_v1", pynvml.c_nvmlUnrepairableMemory_v1_t),
        ("nvmlDeviceGetRepairStatus", pynvml.c_nvmlRepairStatus_t),
        ("nvmlDeviceGetBBXTimeData_v1", pynvml.c_nvmlBBXTimeData_v1_t),
        ("nvmlDeviceGetGpuFabricInfoV", pynvml.c_nvmlGpuFabricInfo_v3_t),
        ("nvmlSystemGetConfComputeState", pynvml.c_nvmlConfComputeSystemState_t),
        ("nvmlSystemGetConfComputeSettings", pynvml.c_nvmlSystemConfComputeSettings_v1_t),
    ],
)
def test_what_is_written_into_is_as_large_as_the_bindings_structure(
    function: str, structure: type
) -> None:
    call = next(call for call in all_calls() if call.function == function)
    assert struct.calcsize("<" + call.layout) == sizeof(structure)
    if call.preset:
        version = call.preset[0]
        assert version & 0xFFFFFF == sizeof(structure)


def test_field_values_and_metrics_are_laid_out_as_in_the_binding() -> None:
    entry = pynvml.c_nvmlFieldValue_t
    assert sizeof(entry) == ask.ENTRY_BYTES
    assert (entry.fieldId.offset, entry.scopeId.offset) == (0, 4)
    assert (entry.valueType.offset, entry.nvmlReturn.offset, entry.value.offset) == (24, 28, 32)
    members = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
    for kind, layout in ask.VALUE_LAYOUTS.items():
        member = {field[0]: field[1] for field in pynvml.c_nvmlValue_t._fields_}[members[kind]]
        assert struct.calcsize("<" + layout) == 8
        assert struct.calcsize("<" + layout.rstrip("x0123456789")) == sizeof(member)
    metrics = pynvml.c_nvmlGpmMetricsGet_t
    assert (metrics.sample1.offset, metrics.metrics.offset) == (8, 24)
    assert sizeof(pynvml.c_nvmlGpmMetric_t) == 40
    assert pynvml.c_nvmlGpmMetric_t.value.offset == 8
    assert len(gpm.Metrics(MIG_METRICS)._memory.bytes) >= sizeof(metrics)


@pytest.mark.parametrize(
    ("name", "raw", "sample"),
    [
        ("temperature_mc", 41, 41_000),
        ("temperature_mc", 0, 0),
        ("temperature_mc", -1, Reason.INVALID_VALUE),
        ("temperature_mc", 201, Reason.INVALID_VALUE),
        ("temperature_mc", 41.0, Reason.INVALID_VALUE),
        ("temperature_mc", "41", Reason.INVALID_VALUE),
        ("temperature_mc", None, Reason.INVALID_VALUE),
        ("temperature_mc", Reason.NOT_SUPPORTED, Reason.NOT_SUPPORTED),
        ("gpu_utilisation_bps", 100, 10_000),
        ("ecc_corrected_volatile", 2**64 - 1, Reason.INVALID_VALUE),
        ("pdi", 2**64 - 2, 2**64 - 2),
        ("pdi", 0, Reason.INVALID_VALUE),
        ("pci_device_id", 2**32 - 1, Reason.INVALID_VALUE),
        ("performance_state", 15, 15),
        ("performance_state", 32, Reason.INVALID_VALUE),
        ("remap_failed", 2, Reason.INVALID_VALUE),
        ("recovery_action", 6, 6),
        ("temperature_margin_min_mc", -3, -3_000),
        ("temperature_margin_min_mc", -201, Reason.INVALID_VALUE),
        ("tlimit_shutdown_mc", -8, -8_000),
        ("pcie_width", 0, Reason.INVALID_VALUE),
        ("energy_mj", COUNT_MAX + 1, Reason.INVALID_VALUE),
        ("odometer_s", 2**32 - 1, Reason.INVALID_VALUE),
        ("inforom_checksum", 2**32 - 1, 2**32 - 1),
        ("unrepairable_memory", 0xFFFFFFFF, Reason.INVALID_VALUE),
        ("compute_process_count", 2**31, Reason.INVALID_VALUE),
        ("serial", "1659472732430", "1659472732430"),
        ("serial", b"1659472732430", "1659472732430"),
        ("serial", b"1659472732430\0\0\xff", "1659472732430"),
        ("serial", b"16\xff", Reason.INVALID_VALUE),
        ("serial", "", Reason.INVALID_VALUE),
        ("serial", " ", Reason.INVALID_VALUE),
        ("serial", "16\n59", Reason.INVALID_VALUE),
        ("serial", "x" * TEXT_BYTES_MAX, "x" * TEXT_BYTES_MAX),
        ("serial", "x" * (TEXT_BYTES_MAX + 1), Reason.INVALID_VALUE),
        ("serial", "é" * TEXT_BYTES_MAX, Reason.INVALID_VALUE),
        ("serial", 1659472732430, Reason.INVALID_VALUE),
    ],
)
def test_admit(name: str, raw: object, sample: Sample) -> None:
    admitted = admit(FIELDS[name], raw)
    assert (type(admitted), admitted) == (type(sample), sample)
    assert in_bounds(FIELDS[name], admitted)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1, Reason.DRIVER_ABSENT),
        (3, Reason.NOT_SUPPORTED),
        (4, Reason.NO_PERMISSION),
        (9, Reason.DRIVER_ABSENT),
        (12, Reason.DRIVER_ABSENT),
        (13, Reason.SYMBOL_MISSING),
        (15, Reason.GPU_LOST),
        (16, Reason.DRIVER_ERROR),
        (999, Reason.DRIVER_ERROR),
    ],
)
def test_reasons(code: int, reason: Reason) -> None:
    assert reason_of(code) is reason


def test_uuids() -> None:
    text = "GPU-4404041a-04cf-1ccf-9e70-f139a9b1e23c"
    subject = subject_of(text)
    assert subject == bytes.fromhex("4404041a04cf1ccf9e70f139a9b1e23c")
    assert uuid_of(subject) == text
    for wrong in (
        "",
        "GPU-",
        "GPU-44",
        "GPU-" + "0" * 32,
        "GPU-zz04041a-04cf-1ccf-9e70-f139a9b1e23c",
    ):
        assert subject_of(wrong) is None


def call_of(field: str) -> Call:
    return next(call for call in CALLS if field in [item.name for item in call.fields])


def decoded(field: str, *values: object) -> list[Sample]:
    call = call_of(field)
    assert call.decode is not None
    answer = call.decode(values)
    return [admit(item, raw) for item, raw in zip(call.fields, answer, strict=True)]


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        ((0x1000008, 0), 0),  # the binding's layout: a version, then the flag
        ((0x1000008, 1), 1),
        ((0, 0xFFFFFFFF), 0),  # the header's layout: the flag alone
        ((1, 0xFFFFFFFF), 1),
        ((0x1000008, 0xFFFFFFFF), Reason.INVALID_VALUE),  # nothing was written
        ((7, 0), Reason.INVALID_VALUE),
    ],
)
def test_the_unrepairable_flag_is_read_in_either_layout(
    words: tuple[int, int], flag: int | Reason
) -> None:
    assert decoded("unrepairable_memory", *words) == [flag]


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
def test_a_flush_time_is_read_in_any_unit(unit: int) -> None:
    assert decoded("bbx_flush_utc_ms", 1_768_000_000 * unit) == [1_768_000_000_000]


@pytest.mark.parametrize("value", [0, 1, 86_400, 2**64 - 1])
def test_a_flush_time_that_is_no_time(value: int) -> None:
    assert decoded("bbx_flush_utc_ms", value) == [Reason.INVALID_VALUE]


def test_a_certificate_chain_is_hashed_as_long_as_it_is() -> None:
    chain = bytes(range(200))
    room = chain.ljust(0x1400, b"\0")
    digest = hashlib.sha256(chain).hexdigest()
    assert decoded("attestation_certificate_sha256", 200, room) == [digest]
    for wrong in (0, 0x1401, 2**32 - 1):
        assert decoded("attestation_certificate_sha256", wrong, room) == [Reason.INVALID_VALUE]


def test_an_older_fabric_answer_has_no_summary() -> None:
    cluster = bytes(range(16))
    whole = decoded("fabric_state", cluster, 0, 5, 3, 0x55, 1)
    assert whole == [cluster.hex(), 0, 5, 3, 0x55, 1]
    older = decoded("fabric_state", cluster, 0, 5, 3, 0x55)
    assert older == [*whole[:5], Reason.SYMBOL_MISSING]


def test_no_chassis_is_no_value() -> None:
    assert decoded("chassis_serial", bytes(16), 0, 0, 1, 1)[0] is Reason.NOT_SUPPORTED
    assert decoded("chassis_serial", b"1820325000123456", 3, 0, 1, 1)[0] == "1820325000123456"


@pytest.mark.parametrize(
    ("value", "sample"),
    [
        (0.0, 0),
        (0.49, 0),
        (0.5, 1),
        (99.5, 100),
        (100.49, 100),
        (100.5, Reason.INVALID_VALUE),
        (-0.1, Reason.INVALID_VALUE),
        (float("nan"), Reason.INVALID_VALUE),
        (float("inf"), Reason.INVALID_VALUE),
        (float("-inf"), Reason.INVALID_VALUE),
        (1e300, Reason.INVALID_VALUE),
    ],
)
def test_a_share_is_rounded_half_up_or_is_none(value: float, sample: int | Reason) -> None:
    assert gpm.rounded(value, 100) == sample


INSTANCES = (MigInstance(1, 20_096, (1, 2, 3, 4, 5)), MigInstance(2, 9_856, Reason.NOT_SAMPLED))


@pytest.mark.parametrize(
    ("name", "sample", "holds"),
    [
        ("nvlink_states", (1,) * 18, True),
        ("nvlink_states", (2,), False),
        ("nvlink_states", 1, False),
        ("temperature_mc", (1,), False),
        ("mig_instances", (), True),
        ("mig_instances", INSTANCES, True),
        ("mig_instances", (1,), False),
        ("mig_instances", (MigInstance(1, 1, (0, 0, 0, 0, 101)),), False),
        ("nvlink_states", INSTANCES, False),
        ("serial", 1, False),
        ("energy_mj", "1", False),
    ],
)
def test_lists_are_in_bounds_item_by_item(name: str, sample: Sample, holds: bool) -> None:
    assert in_bounds(FIELDS[name], sample) is holds


def test_cells_carry_every_sample() -> None:
    deeper: list[Sample] = [2**64 - 1, "text", -8_000, (0, 1, 2), (), INSTANCES, *Reason]
    absent = [1, int(Reason.GPU_LOST), 2, 0]
    line = wire.cells(deeper, 3, absent)
    reading: wire.Reading = ([7, 0, 0], line, absent)
    given = ["first", "lost", "not due", *(f"deeper {place}" for place in range(len(deeper)))]
    expected: dict[str, Sample] = {"first": 7, "lost": Reason.GPU_LOST}
    expected.update(zip(given[3:], deeper, strict=True))
    look = msgspec.json.encode(wire.Look(gpus=[reading]))
    back = msgspec.json.decode(look, type=wire.Look).gpus[0]
    assert isinstance(back, tuple)
    assert wire.values(given, back) == expected
    with pytest.raises(ValueError, match="zip"):
        wire.values(given[:-1], back)
    for sample in ("590.48.01", 8, *Reason):
        assert wire.host_sample(wire.host_cell(sample)) == sample


def test_the_drivers_process_imports_nothing_heavy() -> None:
    """Its resident memory is part of the agent's budget."""
    heavy = (
        "grpc google.protobuf cryptography asyncio yaml structlog prometheus_client rich hashlib"
    )
    code = (
        "import sys, assay_agent.telemetry.nvml_child;"
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
