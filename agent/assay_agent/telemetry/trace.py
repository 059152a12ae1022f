"""Traces: a recording of polls, one JSON object a line, to be replayed or looked into.

The first line is `{"assay_trace": 1, "source": "nvml"}`. Every other line is a Poll: subjects as
NVML writes UUIDs (empty: the host), a field its value or `{"reason": "..."}`, never null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from assay_agent.telemetry.fields import FIELDS, admit_text, in_bounds, subject_of, uuid_of
from assay_agent.telemetry.reading import GpuReading, Happening, Poll, Sample
from assay_core.errors import FileError
from assay_core.header import Source
from assay_core.leaves import HOST, DriverState, EventKind, Reason

VERSION: Final = 1
LINE_BYTES_MAX: Final = 1024 * 1024
_INSTANT_MS_MAX: Final = 2**45
_HOST_NAMES: Final = ("driver_version", "nvml_version", "gpu_count")


class Why(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a field has no value, where a value would stand."""

    reason: str


Written = int | str | Why
"""A sample as written."""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    assay_trace: int
    source: str


class _Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uuid: str
    values: dict[str, Written]


class _Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    subject: str
    kind: str
    code: int
    at_ms: int


class _Poll(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    at_utc_ms: int
    at_boottime_ms: int
    driver: str
    host: dict[str, Written]
    abandoned_processes: int
    gpus: list[_Gpu]
    events: list[_Event]


class TraceWriter:
    """Writes a trace, each poll as soon as it is given. Never over a file that exists."""

    def __init__(self, path: Path, source: Source) -> None:
        try:
            self._file = path.open("xb")
        except OSError as error:
            raise FileError(f"{path}: cannot be written: {error.strerror}") from error
        self._path = path
        self._line(msgspec.json.encode(_Header(VERSION, source.name.lower())))

    def write(self, poll: Poll) -> None:
        """Appends one poll. Raises FileError when the disk will not take it."""
        self._line(encode(poll))

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


def decode(line: bytes, where: str) -> Poll:
    """The poll on one line, every field of it checked as if a driver had said it.

    `where` names file and line in the FileError that anything else raises.
    """
    try:
        poll = _POLLS.decode(line)
        for at_ms in (poll.at_utc_ms, poll.at_boottime_ms):
            _expect(0 <= at_ms < _INSTANT_MS_MAX, f"no clock says {at_ms}")
        _expect(0 <= poll.abandoned_processes < 2**32, "abandoned_processes is out of range")
        _expect(poll.host.keys() == set(_HOST_NAMES), f"host needs {', '.join(_HOST_NAMES)}")
        return Poll(
            at_utc_ms=poll.at_utc_ms,
            at_boottime_ms=poll.at_boottime_ms,
            driver=_member(DriverState, poll.driver, "driver"),
            host={name: _host_sample(name, poll.host[name]) for name in poll.host},
            abandoned_processes=poll.abandoned_processes,
            gpus=tuple(_reading(gpu) for gpu in poll.gpus),
            events=tuple(_happening(event) for event in poll.events),
        )
    except (msgspec.MsgspecError, ValueError) as error:
        raise FileError(f"{where}: {error}") from error


def read(path: Path) -> Iterator[Poll]:
    """The polls of a trace, in order. Raises FileError, naming the line."""
    try:
        with path.open("rb") as file:
            _check_header(file.readline(LINE_BYTES_MAX), str(path))
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
    return {
        name: Why(sample.label) if isinstance(sample, Reason) else sample
        for name, sample in values.items()
    }


def _check_header(line: bytes, path: str) -> None:
    try:
        header = msgspec.json.decode(line, type=_Header)
        _member(Source, header.source, "source")
    except (msgspec.MsgspecError, ValueError) as error:
        raise FileError(f"{path}:1: not a trace: {error}") from error
    if header.assay_trace != VERSION:
        raise FileError(
            f"{path}:1: a trace of version {header.assay_trace}; this agent reads {VERSION}"
        )


def _reading(gpu: _Gpu) -> GpuReading:
    subject = subject_of(gpu.uuid)
    if subject is None:
        raise ValueError(f"{gpu.uuid!r} is not a GPU's UUID")
    missing = FIELDS.keys() - gpu.values.keys()
    unknown = gpu.values.keys() - FIELDS.keys()
    _expect(not missing, f"{gpu.uuid}: {min(missing, default='')} has neither value nor reason")
    _expect(not unknown, f"{gpu.uuid}: there is no field {min(unknown, default='')}")
    values = {}
    for name, field in FIELDS.items():
        values[name] = _sample(gpu.values[name])
        _expect(in_bounds(field, values[name]), f"{gpu.uuid}: {name} cannot be {values[name]!r}")
    return GpuReading(subject, values)


def _host_sample(name: str, value: Written) -> Sample:
    sample = _sample(value)
    if isinstance(sample, Reason):
        return sample
    if isinstance(sample, int):
        _expect(name == "gpu_count" and 0 <= sample < 2**32, f"host: {name} cannot be {sample}")
    else:
        valid = name != "gpu_count" and admit_text(sample) == sample
        _expect(valid, f"host: {name} cannot be {sample!r}")
    return sample


def _happening(event: _Event) -> Happening:
    subject = subject_of(event.subject) if event.subject else HOST
    if subject is None:
        raise ValueError(f"{event.subject!r} is not a GPU's UUID")
    _expect(0 <= event.code < 2**32, f"event: code {event.code} is out of range")
    _expect(0 <= event.at_ms < _INSTANT_MS_MAX, f"event: no clock says {event.at_ms}")
    return Happening(subject, _member(EventKind, event.kind, "event"), event.code, event.at_ms)


def _sample(value: Written) -> Sample:
    return _member(Reason, value.reason, "reason") if isinstance(value, Why) else value


_E = TypeVar("_E", Source, DriverState, EventKind, Reason)


def _member(type_: type[_E], name: str, what: str) -> _E:
    for member in type_:
        if member.name.lower() == name:
            return member
    raise ValueError(f"{what}: there is no {name!r}")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


_POLLS: Final = msgspec.json.Decoder(_Poll)
