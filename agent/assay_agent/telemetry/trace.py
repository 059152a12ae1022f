"""Traces: a recording of polls, one JSON object a line, to be replayed or looked into.

The first line says what was recorded: `{"assay_trace": 1, "source": "nvml", ...}`. Every other one
is a poll as it was taken, with the fields that were due then: subjects as NVML writes UUIDs (empty:
the host), a field its value or `{"reason": "..."}`, never null. Between them, a line for each
window that the recorder closed there: SHA-256 of each leaf under a salt of zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self, TypeVar, cast

import msgspec

from assay_agent.admission import admitted
from assay_agent.fields import read_names
from assay_agent.telemetry.fields import FIELDS, in_bounds, subject_of, uuid_of
from assay_agent.telemetry.reading import GpuReading, Happening, Poll, Sample
from assay_core import codec
from assay_core.errors import FileError
from assay_core.header import CloseReason, Source
from assay_core.leaves import HOST, DriverState, EventKind, Group, MigInstance, Reason

VERSION: Final = 1
LINE_BYTES_MAX: Final = 1024 * 1024
_INSTANT_MS_MAX: Final = 2**45
_ALWAYS: Final = ("driver_version", "nvml_version", "gpu_count")
_OF_GPU: Final = MappingProxyType(
    {
        name: admitted(codec.fields_of(group)[name])
        for group in (Group.IDENTITY, Group.CONDITION, Group.HEALTH, Group.USE)
        for name in read_names(group)
    }
)
"""Each field that a GPU's reading may have, and what lets its samples in."""
_READ_OF_HOST: Final = (
    *_ALWAYS,
    "pci_gpu_count",
    "hidden_gpus",
    "phantom_gpus",
)
_OF_HOST: Final = MappingProxyType(
    {name: admitted(codec.fields_of(Group.HOST)[name]) for name in _READ_OF_HOST}
    | {
        name: admitted(codec.fields_of(Group.PLATFORM)[name])
        for name in read_names(Group.PLATFORM)
        if name != "health_rules"
    }
)


class Why(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a field has no value, where a value would stand."""

    reason: str


class Instance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An instance of a GPU that is cut up: the shares of MigInstance, or why there are none."""

    gpu_instance_id: int
    memory_mib: int
    activity: tuple[int, int, int, int, int] | Why


Written = int | str | list[int | str | Instance] | Why
"""A sample as written."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded, and by what: a replay starts where the recorder did."""

    source: Source
    agent_version: str
    health_rules: str
    boot_id: bytes
    begin_utc_ms: int
    begin_boottime_ms: int


@dataclass(frozen=True, slots=True)
class RecordedWindow:
    """A window that the recorder closed: when, why, and the SHA-256 of each leaf, in their order."""

    at_utc_ms: int
    at_boottime_ms: int
    close_reason: CloseReason
    leaves: Mapping[tuple[bytes, Group], bytes]


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    assay_trace: int
    source: str
    agent_version: str
    health_rules: str
    boot_id: str
    begin_utc_ms: int
    begin_boottime_ms: int


class _Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uuid: str
    values: dict[str, Written]


class _Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    subject: str
    kind: str
    code: int
    at_ms: int


class _Poll(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="poll"):
    at_utc_ms: int
    at_boottime_ms: int
    driver: str
    host: dict[str, Written]
    abandoned_processes: int
    gpus: list[_Gpu]
    events: list[_Event]


class _Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    subject: str
    body: str
    sha256: str


class _Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="window"):
    at_utc_ms: int
    at_boottime_ms: int
    close_reason: str
    leaves: list[_Leaf]


class TraceWriter:
    """Writes a trace, each poll as soon as it is given. Never over a file that exists."""

    def __init__(self, path: Path, recording: Recording) -> None:
        try:
            self._file = path.open("xb")
        except OSError as error:
            raise FileError(f"{path}: cannot be written: {error.strerror}") from error
        self._path = path
        self._line(
            msgspec.json.encode(
                _Header(
                    VERSION,
                    recording.source.name.lower(),
                    recording.agent_version,
                    recording.health_rules,
                    recording.boot_id.hex(),
                    recording.begin_utc_ms,
                    recording.begin_boottime_ms,
                )
            )
        )

    def write(self, poll: Poll) -> None:
        """Appends one poll. Raises FileError when the disk will not take it."""
        self._line(encode(poll))

    def write_window(self, window: RecordedWindow) -> None:
        """Appends a window, after its last poll. Raises FileError as above."""
        self._line(
            msgspec.json.encode(
                _Window(
                    window.at_utc_ms,
                    window.at_boottime_ms,
                    window.close_reason.name.lower(),
                    [
                        _Leaf(uuid_of(subject) if subject else "", group.value, digest.hex())
                        for (subject, group), digest in window.leaves.items()
                    ],
                )
            )
        )

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _line(self, line: bytes) -> None:
        try:
            self._file.write(line + b"\n")
            self._file.flush()
        except OSError as error:
            raise FileError(f"{self._path}: cannot be written: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()


def encode(poll: Poll) -> bytes:
    """One poll as a line, without its end."""
    return msgspec.json.encode(
        _Poll(
            at_utc_ms=poll.at_utc_ms,
            at_boottime_ms=poll.at_boottime_ms,
            driver=poll.driver.name.lower(),
            host=written(poll.host),
            abandoned_processes=poll.abandoned_processes,
            gpus=[_Gpu(uuid_of(gpu.subject), written(gpu.values)) for gpu in poll.gpus],
            events=[
                _Event(
                    uuid_of(event.subject) if event.subject else "",
                    event.kind.name.lower(),
                    event.code,
                    event.at_ms,
                )
                for event in poll.events
            ],
        )
    )


def decode(line: bytes, where: str) -> Poll | RecordedWindow:
    """What is on one line, every field of it checked as if a driver had said it.

    `where` names file and line in the FileError that anything else raises.
    """
    try:
        found = _LINES.decode(line)
        for at_ms in (found.at_utc_ms, found.at_boottime_ms):
            _expect(0 <= at_ms < _INSTANT_MS_MAX, f"no clock says {at_ms}")
        return _poll(found) if isinstance(found, _Poll) else _window(found)
    except (msgspec.MsgspecError, ValueError) as error:
        raise FileError(f"{where}: {error}") from error


def read_recording(path: Path) -> Recording:
    """What a trace says of itself. Raises FileError."""
    try:
        with path.open("rb") as file:
            return _recording(file.readline(LINE_BYTES_MAX), str(path))
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error


def read(path: Path) -> Iterator[Poll | RecordedWindow]:
    """The polls and windows of a trace, in order. Raises FileError, naming the line."""
    try:
        with path.open("rb") as file:
            _recording(file.readline(LINE_BYTES_MAX), str(path))
            number = 1
            while line := file.readline(LINE_BYTES_MAX):
                number += 1
                where = f"{path}:{number}"
                if not line.endswith(b"\n"):
                    raise FileError(f"{where}: cut short, or too long; remove this line")
                yield decode(line, where)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error


def written(values: Mapping[str, Sample]) -> dict[str, Written]:
    """Fields as a trace, and `read --json`, write them."""
    return {name: _written(sample) for name, sample in values.items()}


def _written(sample: Sample) -> Written:
    if isinstance(sample, Reason):
        return Why(sample.label)
    if isinstance(sample, tuple):
        return [_instance(item) if isinstance(item, MigInstance) else item for item in sample]
    return sample


def _instance(one: MigInstance) -> Instance:
    activity = Why(one.activity.label) if isinstance(one.activity, Reason) else one.activity
    return Instance(one.gpu_instance_id, one.memory_mib, activity)


def _recording(line: bytes, path: str) -> Recording:
    try:
        header = msgspec.json.decode(line, type=_Header)
        _expect(
            header.assay_trace == VERSION,
            f"a trace of version {header.assay_trace}; this agent reads {VERSION}",
        )
        return Recording(
            _member(Source, header.source, "source"),
            header.agent_version,
            header.health_rules,
            bytes.fromhex(header.boot_id),
            header.begin_utc_ms,
            header.begin_boottime_ms,
        )
    except (msgspec.MsgspecError, ValueError) as error:
        raise FileError(f"{path}:1: not a trace: {error}") from error


def _poll(poll: _Poll) -> Poll:
    _expect(0 <= poll.abandoned_processes < 2**32, "abandoned_processes is out of range")
    lacking = [name for name in _ALWAYS if name not in poll.host]
    _expect(not lacking, f"host needs {', '.join(lacking)}")
    host = {name: _sample(value) for name, value in poll.host.items()}
    for name, sample in host.items():
        _expect(name in _OF_HOST, f"host: there is no field {name}")
        _expect(_OF_HOST[name](sample) == sample, f"host: {name} cannot be {sample!r}")
    return Poll(
        at_utc_ms=poll.at_utc_ms,
        at_boottime_ms=poll.at_boottime_ms,
        driver=_member(DriverState, poll.driver, "driver"),
        host=host,
        abandoned_processes=poll.abandoned_processes,
        gpus=tuple(_reading(gpu) for gpu in poll.gpus),
        events=tuple(_happening(event) for event in poll.events),
    )


def _window(window: _Window) -> RecordedWindow:
    leaves: dict[tuple[bytes, Group], bytes] = {}
    for leaf in window.leaves:
        subject = subject_of(leaf.subject) if leaf.subject else HOST
        if subject is None:
            raise ValueError(f"{leaf.subject!r} is not a GPU's UUID")
        leaves[subject, _member(Group, leaf.body, "body")] = bytes.fromhex(leaf.sha256)
    return RecordedWindow(
        window.at_utc_ms,
        window.at_boottime_ms,
        _member(CloseReason, window.close_reason, "close_reason"),
        leaves,
    )


def _reading(gpu: _Gpu) -> GpuReading:
    subject = subject_of(gpu.uuid)
    if subject is None:
        raise ValueError(f"{gpu.uuid!r} is not a GPU's UUID")
    values = {name: _sample(value) for name, value in gpu.values.items()}
    for name, sample in values.items():
        _expect(name in _OF_GPU, f"{gpu.uuid}: there is no field {name}")
        _expect(_can_be(name, sample), f"{gpu.uuid}: {name} cannot be {sample!r}")
    return GpuReading(subject, values)


def _can_be(name: str, sample: Sample) -> bool:
    if isinstance(sample, Reason):
        return True
    field = FIELDS.get(name)
    return _OF_GPU[name](sample) == sample and (field is None or in_bounds(field, sample))


def _happening(event: _Event) -> Happening:
    subject = subject_of(event.subject) if event.subject else HOST
    if subject is None:
        raise ValueError(f"{event.subject!r} is not a GPU's UUID")
    _expect(0 <= event.code < 2**32, f"event: code {event.code} is out of range")
    _expect(0 <= event.at_ms < _INSTANT_MS_MAX, f"event: no clock says {event.at_ms}")
    return Happening(subject, _member(EventKind, event.kind, "event"), event.code, event.at_ms)


def _sample(value: Written) -> Sample:
    if isinstance(value, Why):
        return _member(Reason, value.reason, "reason")
    if not isinstance(value, list):
        return value
    items = tuple(
        MigInstance(
            item.gpu_instance_id,
            item.memory_mib,
            _member(Reason, item.activity.reason, "reason")
            if isinstance(item.activity, Why)
            else item.activity,
        )
        if isinstance(item, Instance)
        else item
        for item in value
    )
    return cast("tuple[int, ...]", items)


_E = TypeVar("_E", Source, DriverState, EventKind, Reason, CloseReason, Group)


def _member(type_: type[_E], name: str, what: str) -> _E:
    for member in type_:
        if member.name.lower() == name:
            return member
    raise ValueError(f"{what}: there is no {name!r}")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


_LINES: Final = msgspec.json.Decoder(_Poll | _Window)
