"""What is kept of one GPU from window to window: its incidents, and what rates are taken from."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from assay_core.errors import ServiceError
from assay_core.leaves import Incident, IncidentKind, Severity

OPEN_MAX: Final = 64
"""Open incidents of a GPU that are followed, the worst first: known ones before Xids that no table
has, the older first. Who fills the rest with made-up Xids can add no more of them, and hide
nothing that is as bad and known."""
CLOSED_MAX: Final = 32
"""Ended incidents of a GPU that are remembered, the worst first, then the newest."""
ENDED_MAX: Final = 64
"""Incidents that ended in the window last followed: told once, then among the ended."""
COUNT_MAX: Final = 2**32 - 1
"""A window has no room for more."""

Seconds = Annotated[int, msgspec.Meta(ge=1, le=366 * 86_400)]


class HealthPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long incidents last. Judgement, but for the recurrence."""

    xid_quiet_s: Seconds = 86_400
    """What is not impaired and does not come again ends after this long; what comes again this
    long after its beginning has come on another occasion."""
    xid_recurrence_s: Seconds = 30 * 86_400
    """Occasions within this long are counted together. From the rules' source."""
    lost_impaired_after_s: Seconds = 86_400
    """A GPU that is lost this long is impaired, restart or not."""
    rate_quiet_s: Seconds = 3_600
    """A rate below its limit this long is well again."""


DEFAULT: Final = HealthPolicy()


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One incident as it is followed. Times are the host's, UTC ms.

    `count` is how often it was seen, `windows` how many windows it has stood in, `days` on how many
    of the days since its beginning it came, the newest of which began at `day_ms`. `restart_ms` is
    the first restart since it was last seen, `booted` whether the host was among what restarted.
    `shown`: the last reading that told of it showed it. `fresh`: it ended in the window followed
    last. `survived`: it is impaired since a restart did not cure it, or it has lasted too long.
    """

    kind: IncidentKind
    code: int
    severity: Severity
    begin_ms: int
    last_ms: int
    end_ms: int | None
    count: int
    windows: int
    days: int
    day_ms: int
    restart_ms: int | None = None
    booted: bool = False
    shown: bool = True
    fresh: bool = False
    survived: bool = False

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.end_ms is None

    def incident(self) -> Incident:
        """The incident as a window carries it."""
        return Incident(
            self.kind,
            self.code,
            self.severity,
            self.begin_ms,
            self.last_ms,
            self.end_ms,
            self.count,
        )


class Base(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A counter's total at the time from which a rate is taken, and as last read."""

    total: int
    since_ms: int
    at_since: int
    latest: int


class Place(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What seldom changes and a window need not repeat.

    PCI address as sysfs writes it, most lanes of GPU and slot, NVLinks and their MB/s by its model
    (0: not known), and the most links it was seen with.
    """

    address: str = ""
    lanes_max: int = 0
    links: int = 0
    link_mbps: int = 0
    links_seen: int = 0


class HealthState(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What all windows so far have shown of one GPU; the fold of its observations.

    `at_ms` and `order` are of the newest window. `pages` is the number of pages retired for double
    bit errors whenever it rose within a week, each with the time.
    """

    at_ms: int = 0
    order: int | None = None
    boot_id: bytes = b""
    records: tuple[Record, ...] = ()
    bases: tuple[Base, ...] = ()
    place: Place = Place()
    pages: tuple[tuple[int, int], ...] = ()

    @property
    def open(self) -> tuple[Record, ...]:
        """The incidents that have not ended, the worst first."""
        return tuple(record for record in self.records if record.open)


START: Final = HealthState()

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(HealthState)


def pack(state: HealthState) -> bytes:
    """The state as bytes, some 50 an incident."""
    return _ENCODER.encode(state)


def unpack(packed: bytes) -> HealthState:
    """The state from `pack`. Raises ServiceError for bytes that are not one of this version's."""
    try:
        return _DECODER.decode(packed)
    except (msgspec.DecodeError, ValueError) as error:
        raise ServiceError(f"a kept state of health does not read ({error}): start anew") from error


def told(state: HealthState) -> tuple[Incident, ...]:
    """What a window says: the incidents that are open, and those that ended in it; 128 at most."""
    return tuple(record.incident() for record in state.records if record.open or record.fresh)
