"""Whatever the door lets in, the book follows: a host can stop nobody's valuation."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assay_core import codec
from assay_core.codec.leaves import encode_leaf
from assay_core.header import Period
from assay_core.health import pack, unpack
from assay_core.leaves import HOST, OF_HOST, Content, Group, Leaf
from assay_core.seal import Sealed
from assay_valuer.book import appraise
from assay_valuer.fleet import Fleet
from assay_valuer.ledger.read import StoredWindow
from assay_valuer.policy import ValuerPolicy
from assay_valuer.results import stored_line
from assay_valuer.sights import sights
from assay_valuer.standing.notes import CODES, Notes
from assay_valuer.standing.types import Condition
from tests.fakes.collateral import asset, host, snapshot
from tests.fakes.host import FakeHost
from tests.property.test_core_properties import values_of

POLICY = ValuerPolicy()
GPUS = (b"\x01" * 16, b"\x02" * 16)
SUBJECTS = {
    (subject, group)
    for group in Group
    for subject in ((HOST,) if group in OF_HOST else GPUS)
    if (subject, group) != (HOST, Group.HOST)
}
TIMES = st.integers(0, codec.TIME_MS_MAX)
BOOTTIMES = st.integers(0, 2**64 - 1)
HONEST = FakeHost(gpu_count=1).seal()


@st.composite
def windows(draw):
    subjects = {(HOST, Group.HOST)} | draw(st.sets(st.sampled_from(sorted(SUBJECTS)), max_size=5))
    leaves = tuple(
        encode_leaf(
            Leaf(
                bytes(16),
                Content(
                    subject,
                    group,
                    {name: draw(values_of(name, f)) for name, f in codec.fields_of(group).items()},
                ),
            )
        )
        for subject, group in sorted(subjects)
    )
    codec.check_leaves(leaves)
    begin, end = sorted(draw(st.tuples(BOOTTIMES, BOOTTIMES)))
    header = replace(
        codec.decode_header(HONEST.envelope.payload),
        boot_id=draw(st.sampled_from([b"\x01" * 16, b"\x02" * 16])),
        period=Period(draw(TIMES), draw(TIMES), begin, end),
    )
    return StoredWindow(
        position=0,
        host_key=1,
        header=header,
        hash=bytes(32),
        sealed=Sealed(HONEST.envelope, leaves),
        received_ms=0,
        observed_ms=draw(TIMES),
        clock_behind=False,
    )


@given(st.lists(windows(), min_size=1, max_size=3), TIMES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_whatever_the_door_lets_in_is_followed_kept_and_appraised(told, now_ms):
    fleet = Fleet([], {}, POLICY)
    for position, window in enumerate(told):
        fleet.take(sights(replace(window, position=position)), host())
    for one in fleet.assets.values():
        track = one.track
        assert unpack(pack(track.health)) == track.health
        for kept, kind in ((track.notes, Notes), (track.condition, Condition)):
            assert msgspec.json.decode(msgspec.json.encode(kept), type=kind) == kept
        assert {note.code for note in track.notes.findings} <= set(CODES)
        assert all(len(note.detail) < 1_000 for note in track.notes.findings)
    book = appraise(
        replace(snapshot([asset()]), assets=fleet.assets, loans=()),
        POLICY,
        now_ms,
    )
    for line in book.lines.values():
        assert msgspec.json.encode(stored_line(line, None))
