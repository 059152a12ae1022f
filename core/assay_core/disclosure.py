"""Window files: what a lender is shown, and how anyone checks it offline.

A file holds a sealed header and some of its leaves, each with its path to the signed root. With
all leaves it is a whole window, with some a partial disclosure; both are checked alike. It is
JSON, the envelope in DSSE's own JSON form, so that other DSSE tools can check it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from assay_core import codec, files, merkle, verify
from assay_core.envelope_json import EnvelopeJson, decode, encode, from_json, to_json
from assay_core.errors import FileError, Refusal, Refused
from assay_core.header import Header, Source
from assay_core.instants import format_instant
from assay_core.leaves import Leaf
from assay_core.seal import ECDSA_P256, ED25519, WINDOW_TYPE, Envelope, PublicKey, Sealed

FORMAT: Final = "assay.window.v1"
_KEY_BYTES: Final = {ED25519: 32, ECDSA_P256: 65}


@dataclass(frozen=True, slots=True)
class DisclosedLeaf:
    """A leaf's exact bytes, its index in the tree and its audit path."""

    index: int
    data: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Disclosure:
    """A sealed header with some or all of its leaves."""

    envelope: Envelope
    leaves: tuple[DisclosedLeaf, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the check: what was looked at, whether it holds, and what was found."""

    name: str
    holds: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """The steps as far as they were taken, and the content if all of them hold."""

    steps: tuple[Step, ...]
    header: Header | None
    leaves: tuple[Leaf, ...]

    @property
    def holds(self) -> bool:
        """Whether every step holds."""
        return all(step.holds for step in self.steps)


class _LeafFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    index: int
    leaf: str
    path: list[str]


class _WindowFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: str
    envelope: EnvelopeJson
    leaves: list[_LeafFile]


class _TrustedHost(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    host_id: str
    incarnation: int
    algorithm: str
    public_key: str
    ak_public: str | None = None


class _TrustFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    hosts: list[_TrustedHost]


def disclose(sealed: Sealed, indexes: Iterable[int] | None = None) -> Disclosure:
    """The sealed window with the leaves at `indexes`, or with all of them."""
    hashes = [merkle.leaf_hash(leaf) for leaf in sealed.leaves]
    shown = range(len(hashes)) if indexes is None else sorted(set(indexes))
    return Disclosure(
        sealed.envelope,
        tuple(
            DisclosedLeaf(index, sealed.leaves[index], merkle.audit_path(hashes, index))
            for index in shown
        ),
    )


def dump(disclosure: Disclosure) -> str:
    """The window file's text."""
    file = _WindowFile(
        format=FORMAT,
        envelope=to_json(disclosure.envelope),
        leaves=[
            _LeafFile(index=leaf.index, leaf=encode(leaf.data), path=[encode(h) for h in leaf.path])
            for leaf in disclosure.leaves
        ],
    )
    return msgspec.json.format(msgspec.json.encode(file), indent=1).decode() + "\n"


def load(text: str, name: str) -> Disclosure:
    """Reads a window file. Raises FileError with the place of what is wrong."""
    file = files.parse(text, _WindowFile, name)
    if file.format != FORMAT:
        raise FileError(f"{name}: format is {file.format!r}; this version reads {FORMAT!r}")
    envelope = from_json(file.envelope, f"{name}: envelope")
    leaves = tuple(
        DisclosedLeaf(
            leaf.index,
            decode(leaf.leaf, f"{name}: leaves[{position}].leaf"),
            tuple(decode(item, f"{name}: leaves[{position}].path") for item in leaf.path),
        )
        for position, leaf in enumerate(file.leaves)
    )
    return Disclosure(envelope, leaves)


def dump_trust(trusts: Iterable[verify.HostTrust]) -> str:
    """A trust file's text: which key speaks for which host and incarnation, and whose TPM has it."""
    hosts = [
        _TrustedHost(
            host_id=trust.host_id,
            incarnation=trust.incarnation,
            algorithm=key.algorithm,
            public_key=encode(key.data),
            ak_public=(
                encode(trust.attestation[key.fingerprint])
                if key.fingerprint in trust.attestation
                else None
            ),
        )
        for trust in trusts
        for key in trust.keys
    ]
    return (
        msgspec.json.format(msgspec.json.encode(_TrustFile(hosts=hosts)), indent=1).decode() + "\n"
    )


def load_trust(text: str, name: str) -> tuple[verify.HostTrust, ...]:
    """Reads a trust file: which key speaks for which host and incarnation.

    Raises FileError with the place of what is wrong.
    """
    file = files.parse(text, _TrustFile, name)
    keys: dict[tuple[str, int], list[PublicKey]] = {}
    attestation: dict[str, bytes] = {}
    for position, host in enumerate(file.hosts):
        where = f"{name}: hosts[{position}]"
        size = _KEY_BYTES.get(host.algorithm)
        if size is None:
            known = " and ".join(_KEY_BYTES)
            raise FileError(f"{where}.algorithm: {host.algorithm!r} is not known; {known} are")
        data = decode(host.public_key, f"{where}.public_key")
        if len(data) != size:
            raise FileError(
                f"{where}.public_key: a key of {host.algorithm} has {size} bytes, not {len(data)}"
            )
        key = PublicKey(host.algorithm, data)
        keys.setdefault((host.host_id, host.incarnation), []).append(key)
        if host.ak_public is not None:
            attestation[key.fingerprint] = decode(host.ak_public, f"{where}.ak_public")
    return tuple(
        verify.HostTrust(
            host_id,
            incarnation,
            tuple(found),
            attestation={
                key.fingerprint: attestation[key.fingerprint]
                for key in found
                if key.fingerprint in attestation
            },
        )
        for (host_id, incarnation), found in keys.items()
    )


def inspect(disclosure: Disclosure, trusts: tuple[verify.HostTrust, ...]) -> Inspection:
    """Checks a disclosure step by step, and stops at the first step that does not hold.

    Says that the enrolled key sealed these leaves. It cannot say that they are fresh, that the
    chain around them is whole, or that the host told the truth.
    """
    steps: list[Step] = []
    header: Header | None = None
    leaves: list[Leaf] = []

    def take(name: str, check: Callable[[], str]) -> None:
        steps.append(Step(name, True, check()))

    def envelope() -> str:
        verify.check_envelope(disclosure.envelope, WINDOW_TYPE)
        return f"DSSE, {disclosure.envelope.payload_type}"

    def signature() -> str:
        nonlocal header
        claimed = verify.decode_header(disclosure.envelope)
        trust = _find(trusts, claimed)
        verify.check_signature(disclosure.envelope, trust)
        header = claimed
        names = ", ".join(key.fingerprint[:16] for key in trust.keys)
        return f"by a key enrolled for {claimed.host_id} (key {names})"

    def tree() -> str:
        found = _header(header)
        for leaf in disclosure.leaves:
            _check_path(leaf, found)
        shown = len({leaf.index for leaf in disclosure.leaves})
        if shown != len(disclosure.leaves):
            raise Refused(Refusal.LEAF_COUNT, "a leaf is given twice")
        whole = "the whole window" if shown == found.leaf_count else "a partial disclosure"
        return f"{shown} of {found.leaf_count} leaves lead to the signed root: {whole}"

    def contents() -> str:
        if len(disclosure.leaves) == _header(header).leaf_count:
            verify.check_contents(tuple(leaf.data for leaf in disclosure.leaves))
        for leaf in disclosure.leaves:
            try:
                leaves.append(codec.decode_leaf(leaf.data))
            except codec.Malformed as error:
                detail = f"leaf {leaf.index}: {error}"
                raise Refused(Refusal.MALFORMED_LEAF, detail) from error
        return "every field is a value or the reason why there is none"

    try:
        take("envelope", envelope)
        take("signature", signature)
        take("header", lambda: _describe(_header(header)))
        take("leaves", tree)
        take("contents", contents)
    except Refused as refused:
        names = ("envelope", "signature", "header", "leaves", "contents")
        steps.append(Step(names[len(steps)], False, str(refused)))
        return Inspection(tuple(steps), None, ())
    return Inspection(tuple(steps), header, tuple(leaves))


def _find(trusts: tuple[verify.HostTrust, ...], header: Header) -> verify.HostTrust:
    for trust in trusts:
        if (trust.host_id, trust.incarnation) == (header.host_id, header.incarnation):
            return trust
    raise Refused(
        Refusal.UNKNOWN_HOST,
        f"the trust file has no key for {header.host_id} incarnation {header.incarnation}",
    )


def _check_path(leaf: DisclosedLeaf, header: Header) -> None:
    found = merkle.root_from_path(
        merkle.leaf_hash(leaf.data), leaf.index, header.leaf_count, leaf.path
    )
    if found != header.merkle_root:
        raise Refused(Refusal.LEAF_MISMATCH, f"leaf {leaf.index} does not lead to the signed root")


def _header(header: Header | None) -> Header:
    if header is None:
        raise TypeError("the signature step comes first")
    return header


def _describe(header: Header) -> str:
    label = "" if header.source is Source.NVML else f", {header.source.name} READINGS"
    return (
        f"incarnation {header.incarnation}, sequence {header.sequence}, "
        f"{format_instant(header.period.begin_utc_ms)} to "
        f"{format_instant(header.period.end_utc_ms)}{label}"
    )
