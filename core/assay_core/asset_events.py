"""What people decide of assets, as the statement that they sign: repairs, moves, releases, custody.

The signed bytes are the event's canonical JSON: keys sorted, no spaces, fields that say nothing left
out. One event has one such form, and any other bytes are refused, so that nobody can read two events
in one signature. Who must sign which is in `signatories`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Annotated, Final

import msgspec

from assay_core.errors import FileError
from assay_core.instants import DAY_MS, HOUR_MS, MINUTE_MS, format_duration, format_instant

ASSETS_MAX: Final = 256
PAYLOAD_BYTES_MAX: Final = 64 * 1024
MAINTENANCE_MAX_MS: Final = 24 * HOUR_MS
"""Decision 7: announced maintenance counts for up to 24 h."""
TRANSITION_MAX_MS: Final = 30 * DAY_MS
"""The longest that an asset may be between two places. Judgement: an RMA takes weeks."""
CUSTODY_MAX_MS: Final = 366 * DAY_MS
"""An inspection is looked at anew within a year. Judgement."""
OVERRIDE_MAX_MS: Final = 30 * DAY_MS
"""The longest that people's value stands in the place of the automated one. Judgement: then two of
them look anew."""
MICROS_MAX: Final = 10**15
"""A billion dollars, for one GPU."""
AHEAD_MAX_MS: Final = 30 * DAY_MS
"""How early an event may be proposed. Judgement."""
ANNOUNCED_LATE_MAX_MS: Final = 15 * MINUTE_MS
"""Maintenance is announced: it may have begun by so much, for clocks and typing."""
TOLD_LATE_MAX_MS: Final = 7 * DAY_MS
"""What breaks is told of afterwards: other events may have begun by so much. Judgement."""

_WORD: Final = r"^[!-~](?:[ -~]*[!-~])?$"
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=_WORD)]
HostId = Annotated[str, msgspec.Meta(max_length=255, pattern=r"^spiffe://[!-~]+$")]
Site = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$")]
LoanId = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Why = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
Instant = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Nonce = Annotated[
    str,
    msgspec.Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"),
]


class Kind(enum.StrEnum):
    """What is decided."""

    MAINTENANCE = "maintenance"
    GPU_REPLACEMENT = "gpu_replacement"
    BOARD_SWAP = "board_swap"
    """The host's main board, and its TPM with it; or a GPU baseboard, where replacements are named."""
    HOST_SWAP = "host_swap"
    """GPUs go on in another chassis, which is another host."""
    MOVE = "move"
    REINSTALL = "reinstall"
    RELEASE = "release"
    REDEMPTION = "redemption"
    RE_ENROL = "re_enrol"
    CUSTODY = "custody"
    VALUE_OVERRIDE = "value_override"
    """For a while the GPUs are worth what two people of the lender's say, and not what is worked out."""


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How everything here is read: strictly."""


class Subject(_Struct, frozen=True, order=True):
    """A GPU by what stands on its board."""

    serial: Word
    board_part_number: Word

    def __str__(self) -> str:
        return f"{self.serial} ({self.board_part_number})"


class Inspection(_Struct, frozen=True):
    """Who looked at the hardware, when, the document that says so, and until when it is good."""

    inspector: Word
    inspected_ms: Instant
    document_sha256: Sha256
    valid_until_ms: Instant


class StatedValue(_Struct, frozen=True):
    """What each of the assets is worth, fair market value, and until when that stands."""

    fmv_usd_micros: Annotated[int, msgspec.Meta(ge=1, le=MICROS_MAX)]
    until_ms: Instant


Assets = Annotated[tuple[Subject, ...], msgspec.Meta(max_length=ASSETS_MAX)]


class AssetEvent(_Struct, frozen=True, omit_defaults=True):
    """One thing decided, of assets by their boards, of a host, or of both. Instants are UTC ms."""

    kind: Kind
    nonce: Nonce
    """A random UUID: two events that are otherwise equal are two."""
    why: Why
    assets: Assets = ()
    """Ascending, none twice. Empty where a host is named: all that are its own."""
    host: HostId | None = None
    begin_ms: Instant | None = None
    until_ms: Instant | None = None
    """Inside this window the assets are in transition, and still count."""
    replacements: Assets = ()
    """In the order of `assets`: what takes the place of each."""
    to_host: HostId | None = None
    to_site: Site | None = None
    loan: LoanId | None = None
    holder: HostId | None = None
    """The host that rightly has the assets."""
    lifts: Annotated[tuple[Word, ...], msgspec.Meta(max_length=16)] = ()
    """The freezes that are lifted, by name; empty: all there are. A dispute is one of them."""
    inspection: Inspection | None = None
    value: StatedValue | None = None


def encode(event: AssetEvent) -> bytes:
    """The canonical JSON that is signed."""
    return msgspec.json.encode(event, order="sorted")


def decode(payload: bytes) -> AssetEvent:
    """The event in signed bytes, validated. Raises FileError, naming the field."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise FileError(f"the event: {len(payload)} bytes; at most {PAYLOAD_BYTES_MAX} are taken")
    try:
        event = msgspec.json.decode(payload, type=AssetEvent, strict=True)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FileError(f"the event cannot be read: {error}") from error
    validate(event)
    if encode(event) != payload:
        raise FileError(
            "the event: not in its canonical form (keys sorted, no spaces, nothing empty, nothing "
            "twice); make it with `assay-valuer asset propose` or `assay-agent propose`"
        )
    return event


# What each kind must say, and what it may.
_WINDOW: Final = ("begin_ms", "until_ms")
_MUST: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.MAINTENANCE: _WINDOW,
    Kind.GPU_REPLACEMENT: ("assets", "replacements", *_WINDOW),
    Kind.BOARD_SWAP: ("host", *_WINDOW),
    Kind.HOST_SWAP: ("host", "to_host", *_WINDOW),
    Kind.MOVE: _WINDOW,
    Kind.REINSTALL: ("host", *_WINDOW),
    Kind.RELEASE: ("assets", "loan"),
    Kind.REDEMPTION: ("loan",),
    Kind.RE_ENROL: (),
    Kind.CUSTODY: ("assets", "inspection"),
    Kind.VALUE_OVERRIDE: ("assets", "value"),
}
_MAY: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.MAINTENANCE: ("assets", "host"),
    Kind.BOARD_SWAP: ("assets", "replacements"),
    Kind.HOST_SWAP: ("assets",),
    Kind.MOVE: ("assets", "host", "to_host", "to_site"),
    Kind.REINSTALL: ("assets",),
    Kind.RE_ENROL: ("assets", "host", "holder", "lifts"),
}
_ALWAYS: Final = ("kind", "nonce", "why")
TRANSITIONS: Final = frozenset(kind for kind in Kind if "until_ms" in _MUST[kind])
"""Kinds that have a window in which assets are in transition."""


def fields_of(kind: Kind) -> tuple[str, ...]:
    """The fields that an event of this kind may have."""
    return (*_ALWAYS, *_MUST[kind], *_MAY.get(kind, ()))


def validate(event: AssetEvent) -> None:
    """That the event says what its kind needs, and no more. Raises FileError, naming the field."""
    must, known = _MUST[event.kind], fields_of(event.kind)
    for name in event.__struct_fields__:
        given = getattr(event, name) not in (None, ())
        if name in must and not given:
            raise _wrong(name, f"a {event.kind} needs it")
        if given and name not in known:
            raise _wrong(name, f"a {event.kind} has none")
    if not event.why.isprintable() or event.why != event.why.strip():
        raise _wrong("why", "printable words on one line, no spaces around them")
    if list(event.assets) != sorted(set(event.assets)):
        raise _wrong("assets", "ascending by serial, none twice")
    if len(set(event.lifts)) != len(event.lifts) or list(event.lifts) != sorted(event.lifts):
        raise _wrong("lifts", "ascending, none twice")
    _validate_window(event)
    _validate_replacements(event)
    rule = _RULES.get(event.kind)
    if rule is not None:
        rule(event)


def check_times(event: AssetEvent, now_ms: int) -> None:
    """That an event can still be decided at `now_ms`. Raises FileError, naming the field."""
    if event.inspection is not None:
        if event.inspection.inspected_ms > now_ms:
            raise _wrong("inspection.inspected_ms", "yet to come")
        if event.inspection.valid_until_ms <= now_ms:
            raise _wrong("inspection.valid_until_ms", "is over: inspect anew")
    if event.value is not None and not 0 < event.value.until_ms - now_ms <= OVERRIDE_MAX_MS:
        raise _wrong(
            "value.until_ms", f"to come, within {format_duration(OVERRIDE_MAX_MS)} from now"
        )
    if event.begin_ms is None or event.until_ms is None:
        return
    if event.until_ms <= now_ms:
        raise _wrong(
            "until_ms", f"was over at {format_instant(event.until_ms)}: propose another event"
        )
    if event.begin_ms > now_ms + AHEAD_MAX_MS:
        raise _wrong("begin_ms", f"more than {format_duration(AHEAD_MAX_MS)} ahead")


def check_proposed(event: AssetEvent, now_ms: int) -> None:
    """That an event may be proposed at `now_ms`: it can be decided, and was told of in time."""
    check_times(event, now_ms)
    late_ms = ANNOUNCED_LATE_MAX_MS if event.kind is Kind.MAINTENANCE else TOLD_LATE_MAX_MS
    if event.begin_ms is not None and event.begin_ms < now_ms - late_ms:
        raise _wrong(
            "begin_ms",
            f"a {event.kind} is told of at most {format_duration(late_ms)} after it began",
        )


def _validate_window(event: AssetEvent) -> None:
    if event.inspection is not None:
        length_ms = event.inspection.valid_until_ms - event.inspection.inspected_ms
        if not 0 < length_ms <= CUSTODY_MAX_MS:
            raise _wrong(
                "inspection.valid_until_ms",
                f"after inspected_ms, and by no more than {format_duration(CUSTODY_MAX_MS)}",
            )
    if event.begin_ms is None or event.until_ms is None:
        return
    most_ms = MAINTENANCE_MAX_MS if event.kind is Kind.MAINTENANCE else TRANSITION_MAX_MS
    if not 0 < event.until_ms - event.begin_ms <= most_ms:
        raise _wrong("until_ms", f"after begin_ms, and by no more than {format_duration(most_ms)}")


def _validate_replacements(event: AssetEvent) -> None:
    if not event.replacements:
        return
    if len(event.replacements) != len(event.assets):
        raise _wrong("replacements", "as many as assets, in their order")
    if len({*event.replacements, *event.assets}) != 2 * len(event.assets):
        raise _wrong("replacements", "a GPU takes the place of one other, and not of itself")


def _of_something(event: AssetEvent) -> None:
    if not event.assets and event.host is None:
        raise _wrong("assets", f"a {event.kind} is of GPUs, of a host, or of both: name one")


def _move(event: AssetEvent) -> None:
    _of_something(event)
    if (event.to_host is None) == (event.to_site is None):
        raise _wrong("to_site", "a move is to a host or to a site: name one of them")
    if event.to_host is not None and not event.assets:
        raise _wrong("assets", "a move to another host names its GPUs; all of them: host_swap")
    if event.host is not None and event.assets:
        raise _wrong("host", "GPUs move, or a host with all that is in it: name one of them")


def _host_swap(event: AssetEvent) -> None:
    if event.host == event.to_host:
        raise _wrong("to_host", "is the host itself")


def _re_enrol(event: AssetEvent) -> None:
    _of_something(event)
    if bool(event.assets) != (event.holder is not None):
        raise _wrong("holder", "where assets are named, and only there: which host has them")


_RULES: Final[Mapping[Kind, Callable[[AssetEvent], None]]] = {
    Kind.MAINTENANCE: _of_something,
    Kind.HOST_SWAP: _host_swap,
    Kind.MOVE: _move,
    Kind.RE_ENROL: _re_enrol,
}


def _wrong(field: str, what: str) -> FileError:
    return FileError(f"the event: {field}: {what}")
