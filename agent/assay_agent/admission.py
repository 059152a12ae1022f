"""What a field of the schema can hold: a sample is let in as it is, or is the reason why not."""

from __future__ import annotations

import enum
from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from google.protobuf.descriptor import FieldDescriptor

from assay_agent.telemetry.reading import Sample
from assay_core import codec
from assay_core.codec import ITEMS_MAX
from assay_core.leaves import MigInstance, Reason

U32_MAX: Final = 2**32 - 1
U64_MAX: Final = 2**64 - 1

Admit = Callable[[Sample], Sample]

_BOUNDS: Final = MappingProxyType(
    {
        FieldDescriptor.CPPTYPE_UINT32: (0, U32_MAX),
        FieldDescriptor.CPPTYPE_UINT64: (0, U64_MAX),
        FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
        FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    }
)
_INSTANTS: Final = frozenset({"bbx_flush_utc_ms"})


def admitted(field: FieldDescriptor) -> Admit:
    """What lets a field's samples in: as they are where they can be, else the reason why not."""
    if field.message_type is not None:
        return instances if field.message_type.name == "MigInstance" else _whole
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _texts if field.is_repeated else _text
    least, most = _bounds(field)
    if field.is_repeated:
        return lambda sample: _integers(sample, least, most)
    return lambda sample: integer(sample, least, most)


def _bounds(field: FieldDescriptor) -> tuple[int, int]:
    """The least and the most that a number may be, so that its leaf can be sealed."""
    if field.enum_type is not None:
        return 1, max(int(each.number) for each in field.enum_type.values)
    if field.name in _INSTANTS:
        return 0, codec.TIME_MS_MAX
    return _BOUNDS[field.cpp_type]


def reason_of(sample: Sample) -> Reason:
    """The reason a sample is, or that it is none of its field's values."""
    return sample if isinstance(sample, Reason) else Reason.INVALID_VALUE


def integer(sample: Sample, least: int, most: int) -> int | Reason:
    """The sample where it is a number of `least` to `most`; else the reason why not."""
    if sample.__class__ is int and least <= sample <= most:
        return sample
    # Enumerations of the schema, Tenancy say, are whole numbers too; a Reason is none.
    if isinstance(sample, enum.IntEnum) and not isinstance(sample, Reason):
        return integer(int(sample), least, most)
    return reason_of(sample)


def _whole(sample: Sample) -> Sample:
    return integer(sample, 0, U64_MAX)


def _integers(sample: Sample, least: int, most: int) -> Sample:
    if not isinstance(sample, tuple) or len(sample) > ITEMS_MAX:
        return reason_of(sample)
    whole = [item for item in sample if item.__class__ is int and least <= item <= most]
    return sample if len(whole) == len(sample) else Reason.INVALID_VALUE


def _text(sample: Sample) -> Sample:
    return sample if _is_text(sample) else reason_of(sample)


def _texts(sample: Sample) -> Sample:
    if not isinstance(sample, tuple) or len(sample) > ITEMS_MAX:
        return reason_of(sample)
    return sample if all(map(_is_text, sample)) else Reason.INVALID_VALUE


def _is_text(sample: object) -> bool:
    if not isinstance(sample, str):
        return False
    try:
        return len(sample.encode()) <= codec.TEXT_BYTES_MAX
    except UnicodeEncodeError:
        return False


def instances(sample: Sample) -> tuple[MigInstance, ...] | Reason:
    """The instances, each with a number of its own, where they can be; else the reason why not."""
    if not isinstance(sample, tuple) or len(sample) > ITEMS_MAX:
        return reason_of(sample)
    instances = tuple(one for one in sample if isinstance(one, MigInstance) and _can_be(one))
    numbers = {one.gpu_instance_id for one in instances}
    return instances if len(numbers) == len(sample) else Reason.INVALID_VALUE


def _can_be(one: MigInstance) -> bool:
    shares = () if isinstance(one.activity, Reason) else one.activity
    if not isinstance(shares, tuple) or len(shares) not in (0, 5):
        return False
    numbers = (one.gpu_instance_id, one.memory_mib, *shares)
    return all(number.__class__ is int and 0 <= number <= U32_MAX for number in numbers)
