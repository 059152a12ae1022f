"""The proof that one price row stands in a snapshot of a market, checked with SHA-256 alone.

A snapshot's name is the root of an RFC 6962 Merkle tree over its canonical lines, ascending. A proof
has one line and its audit path; whoever has the name from elsewhere needs nothing more.
"""

from __future__ import annotations

from typing import Final

import msgspec

from assay_core import merkle

FORMAT: Final = "assay.price_proof.v1"


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """That a line stands in the snapshot of this name: the audit path of RFC 6962."""

    format: str = FORMAT
    snapshot_sha256: str
    line: str
    """The canonical line, exactly as it was hashed."""
    index: int
    size: int
    """How many lines the snapshot has."""
    path: tuple[str, ...]
    """Hashes from the leaf's sibling up to the root's child, hex."""


def root_of(proof: Proof) -> str | None:
    """The root, hex, that the line leads to by the proof's path; None where it leads to none."""
    try:
        path = [bytes.fromhex(one) for one in proof.path]
    except ValueError:
        return None
    if any(len(one) != merkle.HASH_BYTES for one in path):
        return None
    leaf = merkle.leaf_hash(proof.line.encode())
    found = merkle.root_from_path(leaf, proof.index, proof.size, path)
    return None if found is None else found.hex()


def holds(proof: Proof) -> bool:
    """Whether the line leads to the name that the proof itself has. Needs nothing but the proof."""
    return root_of(proof) == proof.snapshot_sha256
