"""The table of fields against the schema, and what it takes for a value."""

import subprocess
import sys

import pynvml
import pytest
from google.protobuf.descriptor import FieldDescriptor

from assay_agent.telemetry import wire
from assay_agent.telemetry.fields import (
    CALLS,
    FIELDS,
    START_NAMES,
    TEXT_BYTES_MAX,
    TICK_NAMES,
    Call,
    Field,
    admit,
    in_bounds,
    reason_of,
    subject_of,
    uuid_of,
)
from assay_core.codec import fields_of
from assay_core.leaves import Group, Reason

GROUPS = (Group.IDENTITY, Group.HEALTH, Group.USE)
COUNTED_BY_THE_WINDOW = {"polls", "events"}

_MAX = {
    FieldDescriptor.CPPTYPE_UINT32: 2**32 - 1,
    FieldDescriptor.CPPTYPE_UINT64: 2**64 - 1,
    FieldDescriptor.CPPTYPE_MESSAGE: 2**64 - 1,
}


def by_group(group: Group) -> dict[str, Field]:
    return {field.name: field for call in CALLS if call.group is group for field in call.fields}


@pytest.mark.parametrize("group", GROUPS)
def test_every_field_of_the_schema_is_read_and_no_other(group: Group) -> None:
    assert by_group(group).keys() == fields_of(group).keys() - COUNTED_BY_THE_WINDOW


@pytest.mark.parametrize("group", GROUPS)
def test_what_is_in_bounds_fits_the_schema(group: Group) -> None:
    for name, descriptor in fields_of(group).items():
        if name in COUNTED_BY_THE_WINDOW:
            continue
        field = FIELDS[name]
        if descriptor.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            assert field.high == 0
        else:
            assert (
                0 <= field.low * field.scale < field.high * field.scale <= _MAX[descriptor.cpp_type]
            )


def test_each_field_is_read_once_and_has_its_place() -> None:
    names = [field.name for call in CALLS for field in call.fields]
    assert len(names) == len(set(names)) == len(FIELDS)
    assert set(START_NAMES) == set(by_group(Group.IDENTITY))
    assert sorted(START_NAMES + TICK_NAMES) == sorted(names)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.function}-{call.fields[0].name}")
def test_the_binding_has_every_call(call: Call) -> None:
    assert callable(getattr(pynvml, call.function))
    assert call.otherwise is None or callable(getattr(pynvml, call.otherwise))


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
        ("serial", "1659472732430", "1659472732430"),
        ("serial", b"1659472732430", "1659472732430"),
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
def test_admit(name: str, raw: object, sample: int | str | Reason) -> None:
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


def test_cells_carry_every_sample() -> None:
    for sample in (0, 2**64 - 1, "text", *Reason):
        back = wire.sample(wire.cell(sample))
        assert (type(back), back) == (type(sample), sample)


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
