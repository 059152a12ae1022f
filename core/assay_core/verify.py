"""The one door: `verify` is the only maker of VerifiedWindow, and either returns one or raises.

The steps, in their order, each with the refusals it may raise:

 1. bounds       the message is within its limits                       too_large
 2. envelope     one payload type, known, with a signature               malformed_envelope,
                                                                         unsupported_schema
 3. host         the host is enrolled and not revoked                    unknown_host, revoked_host
 4. signature    a key enrolled for this host made it                    bad_signature
 5. header       strict, of the envelope's schema                        malformed_header
 6. belonging    this host and incarnation, an allowed source            wrong_host,
                                                                         wrong_incarnation,
                                                                         source_not_allowed
 7. leaves       exact bytes under the signed root, none missing         leaf_count, leaf_mismatch
 8. contents     each leaf strict, each subject and group once           malformed_leaf
 9. time         not more than 60 s ahead of the receiver                ahead_of_time
10. chain        next after the head; the same bytes again are known     sequence_gap,
                                                                         wrong_previous, fork

A fork is found only after the signature holds, so its bytes are the host's own word against
itself and are kept as evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from assay_core import codec, merkle
from assay_core.errors import Refusal, Refused
from assay_core.header import GapRecord, Head, Header, Source
from assay_core.leaves import Group, Leaf
from assay_core.seal import GAP_TYPE, WINDOW_TYPE, Envelope, PublicKey, Sealed

AHEAD_MAX_MS: Final = 60_000
"""How far a host's clock may be ahead; beyond it a window waits until it is due."""
BEHIND_TOLERANCE_MS: Final = 2_000
"""How far a window may end before a challenge that it answers was sent, before it is marked."""
HEADER_BYTES_MAX: Final = 2_048
LEAF_BYTES_MAX: Final = 64 * 1024
LEAVES_MAX: Final = 4 * 64 + 2
WINDOW_BYTES_MAX: Final = 1024 * 1024
SIGNATURES_MAX: Final = 4

_MADE_BY_VERIFY: Final = object()


@dataclass(frozen=True, slots=True)
class HostTrust:
    """What enrolment says of a host: which keys may speak for it, and where its chain starts.

    `keys` are oldest first: more than one while a host goes over from one to the next.
    `attestation` has, by the fingerprint of a key that lives in a TPM, the TPM2B_PUBLIC of the
    attestation key that certified it.
    """

    host_id: str
    incarnation: int
    keys: tuple[PublicKey, ...]
    first_previous_hash: bytes = b""
    revoked: bool = False
    attestation: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chain:
    """What the receiver holds of this host and incarnation's chain.

    `hash_at` gives the stored header's hash at a sequence at or before the head, or None where a
    gap record covers it.
    """

    head: Head | None
    hash_at: Callable[[int], bytes | None]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a receiver accepts beyond what is true of every window."""

    sources: frozenset[Source] = frozenset({Source.NVML})


@dataclass(frozen=True, slots=True)
class VerifiedWindow:
    """A window that went through the door. Only `verify` can make one.

    `received_ms` is the receiver's clock. `observed_ms` is the latest instant at which the window
    is known to have ended: its own end, or the sending of the challenge it answers where the
    host's clock is behind, and never later than its receipt. `clock_behind` marks a host whose
    clock is provably behind: the window claims to have ended before its challenge was sent.
    `key` signed it; `superseded` are the older keys of the host, which seal no more from it on.
    """

    header: Header
    hash: bytes
    sealed: Sealed
    received_ms: int
    observed_ms: int
    clock_behind: bool
    key: PublicKey
    superseded: tuple[PublicKey, ...]
    _maker: object

    def __post_init__(self) -> None:
        if self._maker is not _MADE_BY_VERIFY:
            raise TypeError("a VerifiedWindow comes from verify() and nowhere else")

    def leaves(self) -> tuple[Leaf, ...]:
        """The leaves, decoded anew at each call; they hold, for verify() checked each."""
        return tuple(codec.decode_leaf(data) for data in self.sealed.leaves)


@dataclass(frozen=True, slots=True)
class VerifiedGap:
    """A gap record that went through the same door; `key` and `superseded` as a window's."""

    gap: GapRecord
    envelope: Envelope
    received_ms: int
    key: PublicKey
    superseded: tuple[PublicKey, ...]
    _maker: object

    def __post_init__(self) -> None:
        if self._maker is not _MADE_BY_VERIFY:
            raise TypeError("a VerifiedGap comes from verify_gap() and nowhere else")


class AlreadyStored(Exception):  # not an error: the same bytes were sent again
    """These very bytes are in the ledger already; acknowledge them again."""

    def __init__(self, sequence: int) -> None:
        super().__init__(f"sequence {sequence} is stored already")
        self.sequence = sequence


def verify(
    sealed: Sealed,
    *,
    trust: HostTrust | None,
    chain: Chain,
    policy: Policy,
    challenges: Mapping[bytes, int],
    now_ms: int,
) -> VerifiedWindow:
    """Checks a sealed window, steps 1 to 10 above. Raises Refused or AlreadyStored.

    `trust` is None for a host that never enrolled. `challenges` maps each nonce sent to this host
    to the instant it was sent.
    """
    check_bounds(sealed)
    check_envelope(sealed.envelope, WINDOW_TYPE)
    trust = check_host(trust)
    key = check_signature(sealed.envelope, trust)
    header = decode_header(sealed.envelope)
    sequence = header.sequence
    try:
        check_belonging(header.host_id, header.incarnation, trust)
        check_source(header, policy)
        check_leaves(header, sealed.leaves)
        check_contents(sealed.leaves)
        _check_due(header, now_ms)
        digest = sealed.hash
        _check_chain(sequence, header.previous_header_hash, digest, trust, chain)
    except Refused as refused:
        refused.sequence = sequence
        raise
    asked_ms = challenges.get(header.answered_challenge)
    ended_ms = header.period.end_utc_ms
    return VerifiedWindow(
        header=header,
        hash=digest,
        sealed=sealed,
        received_ms=now_ms,
        observed_ms=min(now_ms, ended_ms if asked_ms is None else max(ended_ms, asked_ms)),
        clock_behind=asked_ms is not None and ended_ms + BEHIND_TOLERANCE_MS < asked_ms,
        key=key,
        superseded=trust.keys[: trust.keys.index(key)],
        _maker=_MADE_BY_VERIFY,
    )


def verify_gap(
    envelope: Envelope, *, trust: HostTrust | None, chain: Chain, now_ms: int
) -> VerifiedGap:
    """Checks a sealed gap record by the same steps. Raises Refused or AlreadyStored."""
    if len(envelope.payload) > HEADER_BYTES_MAX:
        raise Refused(Refusal.TOO_LARGE, f"the gap record is over {HEADER_BYTES_MAX} bytes")
    check_envelope(envelope, GAP_TYPE)
    trust = check_host(trust)
    key = check_signature(envelope, trust)
    try:
        gap = codec.decode_gap(envelope.payload)
    except codec.Malformed as error:
        raise Refused(Refusal.MALFORMED_HEADER, str(error)) from error
    try:
        check_belonging(gap.host_id, gap.incarnation, trust)
        head = chain.head
        if head is not None and gap.last_sequence <= head.sequence:
            if chain.hash_at(gap.last_sequence) == gap.last_dropped_hash:
                raise AlreadyStored(gap.last_sequence)
            raise Refused(Refusal.FORK, "the gap covers windows that are stored")
        _check_next(gap.first_sequence, gap.previous_header_hash, trust, head)
    except Refused as refused:
        refused.sequence = gap.last_sequence
        raise
    superseded = trust.keys[: trust.keys.index(key)]
    return VerifiedGap(gap, envelope, now_ms, key, superseded, _maker=_MADE_BY_VERIFY)


def check_bounds(sealed: Sealed) -> None:
    """Step 1."""
    size = len(sealed.envelope.payload) + sum(len(leaf) for leaf in sealed.leaves)
    if size > WINDOW_BYTES_MAX or len(sealed.envelope.payload) > HEADER_BYTES_MAX:
        raise Refused(
            Refusal.TOO_LARGE,
            f"{size} bytes; at most {WINDOW_BYTES_MAX}, and {HEADER_BYTES_MAX} for the header",
        )
    if len(sealed.leaves) > LEAVES_MAX:
        raise Refused(Refusal.TOO_LARGE, f"{len(sealed.leaves)} leaves; at most {LEAVES_MAX}")
    if any(len(leaf) > LEAF_BYTES_MAX for leaf in sealed.leaves):
        raise Refused(Refusal.TOO_LARGE, f"a leaf is over {LEAF_BYTES_MAX} bytes")


def check_envelope(envelope: Envelope, expected_type: str) -> None:
    """Step 2."""
    if not 1 <= len(envelope.signatures) <= SIGNATURES_MAX:
        raise Refused(
            Refusal.MALFORMED_ENVELOPE,
            f"{len(envelope.signatures)} signatures; 1 to {SIGNATURES_MAX} are taken",
        )
    if envelope.payload_type != expected_type:
        raise Refused(
            Refusal.UNSUPPORTED_SCHEMA,
            f"payload type {envelope.payload_type[:80]!r}; this valuer takes {expected_type}",
        )


def check_host(trust: HostTrust | None) -> HostTrust:
    """Step 3."""
    if trust is None:
        raise Refused(Refusal.UNKNOWN_HOST, "the host is not enrolled; enrol it with a token")
    if trust.revoked:
        raise Refused(Refusal.REVOKED_HOST, "the host was revoked; ask the lender")
    return trust


def check_signature(envelope: Envelope, trust: HostTrust) -> PublicKey:
    """Step 4: who signed. Keys come from enrolment; the envelope's keyid is not looked at."""
    first = envelope.signatures[0]
    for key in trust.keys:
        if key.verifies(first.sig, envelope.payload_type, envelope.payload):
            return key
    raise Refused(Refusal.BAD_SIGNATURE, "no key enrolled for this host made the first signature")


def decode_header(envelope: Envelope) -> Header:
    """Step 5."""
    try:
        header = codec.decode_header(envelope.payload)
    except codec.Malformed as error:
        raise Refused(Refusal.MALFORMED_HEADER, str(error)) from error
    if header.schema != 1:  # the schema of WINDOW_TYPE
        raise Refused(
            Refusal.MALFORMED_HEADER, f"schema {header.schema} in an envelope of schema 1"
        )
    return header


def check_belonging(host_id: str, incarnation: int, trust: HostTrust) -> None:
    """Step 6, first half."""
    if host_id != trust.host_id:
        raise Refused(Refusal.WRONG_HOST, "the header names another host than the certificate")
    if incarnation != trust.incarnation:
        raise Refused(
            Refusal.WRONG_INCARNATION,
            f"incarnation {incarnation}; this host is at {trust.incarnation}, enrol it again",
        )


def check_source(header: Header, policy: Policy) -> None:
    """Step 6, second half."""
    if header.source not in policy.sources:
        raise Refused(
            Refusal.SOURCE_NOT_ALLOWED,
            f"source {header.source.name.lower()} is not accepted by this valuer's policy",
        )


def check_leaves(header: Header, leaves: tuple[bytes, ...]) -> None:
    """Step 7."""
    if len(leaves) != header.leaf_count:
        raise Refused(
            Refusal.LEAF_COUNT, f"{len(leaves)} leaves came, {header.leaf_count} were signed"
        )
    if merkle.root([merkle.leaf_hash(leaf) for leaf in leaves]) != header.merkle_root:
        raise Refused(Refusal.LEAF_MISMATCH, "the leaves are not those that were signed")


def check_contents(leaves: tuple[bytes, ...]) -> None:
    """Step 8."""
    try:
        keys = codec.check_leaves(leaves)
    except codec.Malformed as error:
        raise Refused(Refusal.MALFORMED_LEAF, str(error)) from error
    if len(set(keys)) != len(keys):
        raise Refused(Refusal.MALFORMED_LEAF, "a subject has two leaves of one group")
    if not any(group is Group.HOST for _, group in keys):
        raise Refused(Refusal.MALFORMED_LEAF, "there is no host leaf")


def _check_due(header: Header, now_ms: int) -> None:
    """Step 9."""
    ahead_ms = header.period.end_utc_ms - now_ms
    if ahead_ms > AHEAD_MAX_MS:
        raise Refused(
            Refusal.AHEAD_OF_TIME,
            f"the window ends {ahead_ms} ms from now; set the host's clock, it waits until then",
            retry_after_ms=min(ahead_ms - AHEAD_MAX_MS, 15 * 60_000),
        )


def _check_chain(
    sequence: int, previous: bytes, digest: bytes, trust: HostTrust, chain: Chain
) -> None:
    """Step 10."""
    head = chain.head
    if head is not None and sequence <= head.sequence:
        if chain.hash_at(sequence) == digest:
            raise AlreadyStored(sequence)
        raise Refused(
            Refusal.FORK,
            f"another window {sequence} is stored: one key sealed two histories; "
            "a copied or restored agent state must enrol anew",
        )
    _check_next(sequence, previous, trust, head)


def _check_next(sequence: int, previous: bytes, trust: HostTrust, head: Head | None) -> None:
    expected = 0 if head is None else head.sequence + 1
    if sequence != expected:
        raise Refused(
            Refusal.SEQUENCE_GAP, f"window {expected} comes next, {sequence} came; send it first"
        )
    if previous != (trust.first_previous_hash if head is None else head.hash):
        raise Refused(Refusal.WRONG_PREVIOUS, f"window {sequence} does not follow the stored head")
