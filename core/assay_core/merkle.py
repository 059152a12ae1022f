"""Merkle trees by RFC 6962 section 2.1, over SHA-256: a root, an audit path, and its check."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

HASH_BYTES: Final = 32


def leaf_hash(data: bytes) -> bytes:
    """MTH of a single entry: SHA-256(0x00 || data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """An inner node: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(hashes: Sequence[bytes]) -> bytes:
    """The tree's hash over the given leaf hashes; of no leaves, SHA-256 of the empty string.

    Works level by level: pairing neighbours and carrying an odd last node up unchanged gives the
    tree that RFC 6962 defines by splitting at the largest power of two.
    """
    if not hashes:
        return hashlib.sha256(b"").digest()
    level = list(hashes)
    while len(level) > 1:
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]


def root_in_passing(hashes: Iterable[bytes]) -> bytes:
    """What `root` gives, of leaf hashes that come one by one: keeps one node for each bit of their
    number, as a tree of any size would else not fit in memory.
    """
    stack: list[bytes] = []
    for count, leaf in enumerate(hashes):
        node, left = leaf, count
        while left & 1:
            node = node_hash(stack.pop(), node)
            left >>= 1
        stack.append(node)
    if not stack:
        return root(())
    node = stack.pop()
    while stack:
        node = node_hash(stack.pop(), node)
    return node


def audit_path(hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """PATH(index, D[n]) of RFC 6962 section 2.1.1: the siblings from the leaf to the root."""
    if not 0 <= index < len(hashes):
        raise ValueError("no such leaf")
    path: list[bytes] = []
    level = list(hashes)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
        index //= 2
    return tuple(path)


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that the leaf hash at `index` of `size` leads to by `path`; None if it cannot.

    The check of RFC 9162 section 2.1.3.2; a path of the wrong length leads nowhere.
    """
    if not 0 <= index < size:
        return None
    position, last, result = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if position & 1 or position == last:
            result = node_hash(sibling, result)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            result = node_hash(result, sibling)
        position >>= 1
        last >>= 1
    return result if last == 0 else None
