"""The words of standing: what a GPU is, what has befallen it, and what we believe of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from assay_core.header import Period
from assay_core.health import START, HealthState, Observation
from assay_core.leaves import Content, DriverState, Incident, Severity
from assay_valuer.findings import Finding
from assay_valuer.standing.notes import NOTHING, Found, Note, Notes
from assay_valuer.standing.trust import NO_TRUST, AssetTrust, Transition


class Presence(enum.StrEnum):
    """Where a GPU is, as far as anybody said."""

    EXPECTED = "expected"  # pledged, never seen
    PRESENT = "present"
    SILENT = "silent"
    MAINTENANCE = "maintenance"
    MISSING = "missing"  # its host says that it is gone
    IN_TRANSITION = (
        "in_transition"  # both parties said that it is being replaced, moved or serviced
    )
    PASSED_THROUGH = "passed_through"  # a virtual machine has it: nobody can read it
    UNKNOWN = "unknown"  # nobody whom we believe speaks for it


class Cause(enum.StrEnum):
    """Whose silence it is."""

    NONE = ""
    OURS = "ours"
    SITE = "site"
    HOST = "host"
    GPU = "gpu"
    TENANT = "tenant"  # who was given the whole GPU


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the newest windows said that standing needs; kept as JSON beside the asset."""

    boot_id: str = ""
    driver: int = int(DriverState.RUNNING)
    lost: bool = False
    alone: bool = False
    """Gone by itself, while its driver worked; so until it is seen again."""
    passed_through: bool = False
    """A virtual machine has it; so until it is seen again, or gone."""
    maintenance_until_ms: int | None = None
    recovery_action: int | None = None
    temperature_mc: int | None = None
    ecc_uncorrected: int | None = None


DRIVER_SILENT: Final = (DriverState.UNRESPONSIVE, DriverState.ABSENT)
"""A driver that does not answer: the host's silence, not its GPUs'."""


class Leaves(NamedTuple):
    """A window's leaves of one GPU, as far as it has them."""

    identity: Content | None = None
    health: Content | None = None
    use: Content | None = None
    condition: Content | None = None


NO_LEAVES: Final = Leaves()


@dataclass(frozen=True, slots=True)
class Sight:
    """What one window says of one GPU.

    `health` is it in the words of the rules, `told` the incidents that its host says there are,
    `found` what does not hang together in the window. None is "no value". `reset` marks a reload of
    the driver within the window, `platform` that the host's platform leaf travelled.
    `behind_ms` is how far its clock was shown to be behind ours.
    """

    observed_ms: int
    position: int
    driver: DriverState
    period: Period
    health: Observation
    reset: bool = False
    maintenance_until_ms: int | None = None
    recovery_action: int | None = None
    temperature_mc: int | None = None
    ecc_uncorrected: int | None = None
    leaves: Leaves = NO_LEAVES
    platform: bool = False
    behind_ms: int = 0
    told: tuple[Incident, ...] = ()
    found: tuple[Found, ...] = ()

    @property
    def seen(self) -> bool:
        """Whether a poll reached it."""
        return self.health.seen

    @property
    def lost(self) -> bool:
        """Whether its host says that it is gone."""
        return self.health.lost

    @property
    def boot(self) -> str:
        """The boot, by its name in JSON."""
        return self.health.boot_id.hex()


@dataclass(frozen=True, slots=True)
class Track:
    """What all windows so far have shown of one GPU; the fold of its sights."""

    first_seen_ms: int | None = None
    seen_ms: int | None = None
    missing_since_ms: int | None = None
    position: int | None = None
    condition: Condition = field(default_factory=Condition)
    health: HealthState = START
    notes: Notes = NOTHING


@dataclass(frozen=True, slots=True)
class Host:
    """What the registry says of a host. `observed_ms` is of its newest window."""

    key: int
    host_id: str
    site: str
    observed_ms: int | None
    revoked: bool


@dataclass(frozen=True, slots=True)
class Asset:
    """A GPU as an asset: its identifiers, where it is, its track, and what it has proved.

    `pdi` is the device's 64-bit identifier by its host's word; `identity` the SHA-256 of its identity
    key (hex), once it proved that it holds that key.
    """

    id: int
    serial: str | None
    board_part_number: str | None
    uuid: bytes | None
    name: str | None
    host_key: int | None
    simulated: bool
    track: Track
    pdi: int | None = None
    identity: str | None = None
    trust: AssetTrust = NO_TRUST

    @property
    def label(self) -> str:
        """What a person calls it: its serial, else its number here."""
        return self.serial or f"asset-{self.id}"


@dataclass(frozen=True, slots=True)
class Standing:
    """What we believe of one GPU at one instant.

    `severity` is the worst incident that may move its value; `assurance` is 0 to 4, with 128 for
    custody, and `cap_bps` the most that is lent on its net value by it. `frozen`: nothing is lent and
    nothing counted until two people enrol it again. `observed_ms` is its newest evidence, None if it
    was never seen. `incidents` are those that are open, `transition` what is under way.
    """

    presence: Presence
    cause: Cause
    observed_ms: int | None
    assurance: int
    cap_bps: int
    severity: Severity | None
    counts: bool
    simulated: bool
    disputed: bool
    frozen: bool
    name: str | None
    incidents: tuple[Incident, ...]
    notes: tuple[Note, ...]
    findings: tuple[Finding, ...]
    transition: Transition | None = None
