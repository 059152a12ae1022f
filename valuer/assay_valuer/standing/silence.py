"""Whose silence it is: ours, a site's, a host's. Clocks stop while we ourselves were down."""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from assay_valuer.policy import Silence, ms
from assay_valuer.standing.types import Cause, Host


class Span(NamedTuple):
    """From and until, UTC ms."""

    begin_ms: int
    end_ms: int


@dataclass(frozen=True)
class Uptime:
    """The spans in which the valuer served: ascending, apart from each other."""

    spans: tuple[Span, ...]

    @cached_property
    def _begins(self) -> list[int]:
        return [span.begin_ms for span in self.spans]

    @cached_property
    def _served_before(self) -> list[int]:
        served, sums = 0, []
        for span in self.spans:
            sums.append(served)
            served += span.end_ms - span.begin_ms
        return sums

    def _served_until(self, at_ms: int) -> int:
        index = bisect_right(self._begins, at_ms) - 1
        if index < 0:
            return 0
        span = self.spans[index]
        return self._served_before[index] + min(at_ms, span.end_ms) - span.begin_ms

    def served_ms(self, begin_ms: int, end_ms: int) -> int:
        """How long we served between two instants; silence is counted in this time alone."""
        return max(0, self._served_until(end_ms) - self._served_until(begin_ms))


def merge(spans: Iterable[Span]) -> Uptime:
    """Spans in any order, overlapping or not, as an Uptime."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.begin_ms <= merged[-1].end_ms:
            merged[-1] = Span(merged[-1].begin_ms, max(merged[-1].end_ms, span.end_ms))
        elif span.end_ms > span.begin_ms:
            merged.append(span)
    return Uptime(tuple(merged))


class Voice(enum.Enum):
    """Whether a host speaks."""

    SPEAKS = "speaks"
    WAITED_FOR = "waited for"  # silent for as long as we were down, no longer
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class HostVoice:
    """Whether a host speaks, and if it does not, whose silence it is."""

    voice: Voice
    cause: Cause


def voices(
    hosts: Mapping[int, Host], uptime: Uptime, policy: Silence, now_ms: int
) -> dict[int, HostVoice]:
    """The voice of each host by its key.

    A silence is the site's when it has several hosts and none speaks: one line may be cut.
    """
    quiet_ms = ms(policy.quiet_after_s)
    heard: dict[int, HostVoice] = {}
    silent: dict[str, list[int]] = defaultdict(list)
    members: dict[str, int] = defaultdict(int)
    for key, host in hosts.items():
        if host.revoked or host.observed_ms is None:
            heard[key] = HostVoice(Voice.SILENT, Cause.HOST)
            continue
        members[host.site] += 1
        if uptime.served_ms(host.observed_ms, now_ms) > quiet_ms:
            silent[host.site].append(key)
        elif now_ms - host.observed_ms > quiet_ms:
            heard[key] = HostVoice(Voice.WAITED_FOR, Cause.OURS)
        else:
            heard[key] = HostVoice(Voice.SPEAKS, Cause.NONE)
    for site, keys in silent.items():
        whole = len(keys) == members[site] and len(keys) > 1
        cause = Cause.SITE if whole else Cause.HOST
        heard.update((key, HostVoice(Voice.SILENT, cause)) for key in keys)
    return heard
