"""Rate limits: token buckets, for each network address and for all together; bounded in memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

PEERS_MAX: Final = 4_096
_MINUTE_MS: Final = 60_000


class RateLimiter:
    """Allows so many calls a minute of a peer and of all; a minute's worth may come at once."""

    def __init__(self, *, per_minute: int, per_minute_of_peer: int) -> None:
        self._all = _Bucket(per_minute)
        self._per_peer = per_minute_of_peer
        self._peers: OrderedDict[str, _Bucket] = OrderedDict()

    def allows(self, peer: str, now_ms: int) -> bool:
        """Whether a call of `peer` (as gRPC names it) may go on now; counts it if so."""
        address = address_of(peer)
        bucket = self._peers.get(address)
        if bucket is None:
            bucket = self._peers[address] = _Bucket(self._per_peer)
            if len(self._peers) > PEERS_MAX:
                self._peers.popitem(last=False)
        self._peers.move_to_end(address)
        # A peer over its own limit takes nothing from the others.
        return bucket.takes(now_ms) and self._all.takes(now_ms)


def address_of(peer: str) -> str:
    """gRPC's "ipv4:10.0.0.1:5000" without the port; IPv6 by its /64, which one host may own."""
    kind, _, rest = peer.partition(":")
    address = rest.rpartition(":")[0].strip("[]").replace("%5B", "").replace("%5D", "")
    if kind == "ipv6":
        return ":".join(address.split(":")[:4])
    return address or peer


class _Bucket:
    __slots__ = ("_at_ms", "_left", "_per_minute")

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._left = per_minute * _MINUTE_MS  # in calls times milliseconds: no fractions
        self._at_ms = 0

    def takes(self, now_ms: int) -> bool:
        full = self._per_minute * _MINUTE_MS
        elapsed_ms = max(0, min(now_ms - self._at_ms, _MINUTE_MS))
        self._left = min(full, self._left + elapsed_ms * self._per_minute)
        self._at_ms = now_ms
        if self._left < _MINUTE_MS:
            return False
        self._left -= _MINUTE_MS
        return True
