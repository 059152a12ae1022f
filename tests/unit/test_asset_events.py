"""An event says what its kind needs and no more, in one form; nobody decides alone."""

from __future__ import annotations

import json

import msgspec
import pytest

from assay_core import asset_events
from assay_core.asset_events import AssetEvent, Inspection, Kind, StatedValue, Subject
from assay_core.errors import FileError
from assay_core.instants import DAY_MS, HOUR_MS, MINUTE_MS
from assay_core.signatories import Role, needed

NOW = 1_795_000_000_000
NONCE = "7d0b1f0a-5a1e-4c7e-9b53-0d5f4bb7a001"
ONE = (Subject(serial="A1", board_part_number="P"),)
TWO = (Subject(serial="B1", board_part_number="P"),)
HOST = "spiffe://assay.test/site/lab/host/1"
OTHER = "spiffe://assay.test/site/lab/host/2"
WINDOW = {"begin_ms": NOW, "until_ms": NOW + HOUR_MS}
INSPECTION = Inspection(
    inspector="Carol of DC1",
    inspected_ms=NOW,
    document_sha256="ab" * 32,
    valid_until_ms=NOW + 90 * DAY_MS,
)
STATED = StatedValue(fmv_usd_micros=17_500_000_000, until_ms=NOW + 14 * DAY_MS)
# The least that each kind takes: issue 4, "Identity and lifecycle" and "Custody".
LEAST = {
    "maintenance": {"host": HOST, **WINDOW},
    "gpu_replacement": {"assets": ONE, "replacements": TWO, **WINDOW},
    "board_swap": {"host": HOST, **WINDOW},
    "host_swap": {"host": HOST, "to_host": OTHER, **WINDOW},
    "move": {"assets": ONE, "to_site": "fra2", **WINDOW},
    "reinstall": {"host": HOST, **WINDOW},
    "release": {"assets": ONE, "loan": "loan-1"},
    "redemption": {"loan": "loan-1"},
    "re_enrol": {"assets": ONE, "holder": HOST},
    "custody": {"assets": ONE, "inspection": INSPECTION},
    "value_override": {"assets": ONE, "value": STATED},
}


def event(kind, **changed):
    fields = {"nonce": NONCE, "why": "a test"} | LEAST[kind] | changed
    return AssetEvent(kind=Kind(kind), **fields)


def refused(one, field):
    with pytest.raises(FileError, match=f"^the event: {field}: "):
        asset_events.validate(one)


@pytest.mark.parametrize("kind", list(Kind))
def test_the_least_of_each_kind_is_taken_and_nothing_can_be_left_out(kind):
    one = event(kind)
    assert asset_events.decode(asset_events.encode(one)) == one
    for field in LEAST[kind]:
        with pytest.raises(FileError, match=r"needs it|name one|where assets are named"):
            asset_events.validate(event(kind, **{field: () if field == "assets" else None}))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("maintenance", {"loan": "loan-1"}),
        ("maintenance", {"to_host": OTHER}),
        ("gpu_replacement", {"host": HOST}),
        ("release", {"until_ms": NOW}),
        ("redemption", {"assets": ONE}),
        ("custody", {"holder": HOST}),
        ("reinstall", {"replacements": TWO}),
        ("move", {"inspection": INSPECTION}),
        ("board_swap", {"lifts": ("chain_fork",)}),
        ("custody", {"value": STATED}),
        ("value_override", {"until_ms": NOW + HOUR_MS}),
    ],
)
def test_what_a_kind_has_none_of_is_refused(kind, fields):
    refused(event(kind, **fields), next(iter(fields)))


def test_a_window_is_as_long_as_its_kind_allows():
    asset_events.validate(event("maintenance", until_ms=NOW + 24 * HOUR_MS))
    refused(event("maintenance", until_ms=NOW + 24 * HOUR_MS + 1), "until_ms")
    asset_events.validate(event("gpu_replacement", until_ms=NOW + 30 * DAY_MS))
    refused(event("gpu_replacement", until_ms=NOW + 30 * DAY_MS + 1), "until_ms")
    refused(event("reinstall", until_ms=NOW), "until_ms")
    long = msgspec.structs.replace(INSPECTION, valid_until_ms=NOW + 367 * DAY_MS)
    refused(event("custody", inspection=long), "inspection.valid_until_ms")


def test_replacements_go_one_for_one_and_no_gpu_replaces_itself():
    refused(event("gpu_replacement", replacements=(*TWO, *TWO)), "replacements")
    refused(event("gpu_replacement", replacements=ONE), "replacements")
    refused(
        event("gpu_replacement", assets=(*ONE, *TWO), replacements=(TWO[0], ONE[0])), "replacements"
    )


def test_a_move_is_of_gpus_or_of_a_host_to_one_place():
    refused(event("move", to_host=HOST), "to_site")
    refused(event("move", to_site=None), "to_site")
    refused(event("move", assets=(), host=HOST, to_site=None, to_host=OTHER), "assets")
    refused(event("move", host=HOST), "host")
    refused(event("host_swap", to_host=HOST), "to_host")
    asset_events.validate(event("move", assets=(), host=HOST))


def test_who_holds_is_said_where_assets_are_enrolled_anew_and_only_there():
    refused(event("re_enrol", assets=(), host=HOST), "holder")
    asset_events.validate(event("re_enrol", assets=(), holder=None, host=HOST, lifts=("a", "b")))
    refused(event("re_enrol", lifts=("b", "a")), "lifts")


@pytest.mark.parametrize("why", ["line\nbreak", " spaced", "bell\x07", "\u202eturned"])
def test_why_is_words_on_one_line(why):
    refused(event("maintenance", why=why), "why")


def test_assets_are_in_order_and_none_twice():
    refused(event("release", assets=(*TWO, *ONE)), "assets")
    refused(event("release", assets=(*ONE, *ONE)), "assets")


def test_only_the_one_form_of_an_event_is_read():
    payload = asset_events.encode(event("release"))
    tree = json.loads(payload)
    assert payload == json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()
    unordered = json.dumps(dict(reversed(tree.items())), separators=(",", ":")).encode()
    twice = payload.replace(b'"loan":"loan-1"', b'"loan":"loan-2","loan":"loan-1"')
    empty = payload.replace(b'"nonce"', b'"lifts":[],"nonce"')
    spaced = json.dumps(tree, sort_keys=True).encode()
    for other in (unordered, twice, empty, spaced, payload + b"\n"):
        assert json.loads(other).items() >= tree.items()
        with pytest.raises(FileError, match="canonical form"):
            asset_events.decode(other)
    for other in (
        payload.replace(b'"nonce"', b'"extra":1,"nonce"'),
        payload.replace(b'"a test"', b'"' + b"x" * 501 + b'"'),
        payload.replace(NONCE.encode(), b"not-a-uuid"),
        payload.replace(b"loan-1", b"loan\\u00201"),
        b"\xff",
        b"[]",
    ):
        with pytest.raises(FileError, match="cannot be read"):
            asset_events.decode(other)
    with pytest.raises(FileError, match="bytes"):
        asset_events.decode(b" " * 65_537)


def test_it_is_told_of_in_time_and_decided_before_it_is_over():
    maintenance, swap = event("maintenance"), event("reinstall", until_ms=NOW + 9 * DAY_MS)
    asset_events.check_proposed(maintenance, NOW + 15 * MINUTE_MS)
    asset_events.check_proposed(maintenance, NOW - 30 * DAY_MS)
    asset_events.check_proposed(swap, NOW + 7 * DAY_MS)
    asset_events.check_times(swap, NOW + 9 * DAY_MS - 1)
    asset_events.check_times(event("release"), NOW + 1_000 * DAY_MS)
    for late, at_ms, field in (
        (maintenance, NOW + 15 * MINUTE_MS + 1, "begin_ms"),
        (swap, NOW + 7 * DAY_MS + 1, "begin_ms"),
        (maintenance, NOW - 30 * DAY_MS - 1, "begin_ms"),
        (swap, NOW + 9 * DAY_MS, "until_ms"),
        (event("custody"), NOW - 1, "inspection.inspected_ms"),
        (event("custody"), NOW + 90 * DAY_MS, "inspection.valid_until_ms"),
        (event("value_override"), NOW + 14 * DAY_MS, "value.until_ms"),
        (event("value_override"), NOW - 16 * DAY_MS - 1, "value.until_ms"),
    ):
        with pytest.raises(FileError, match=f"^the event: {field}: "):
            asset_events.check_proposed(late, at_ms)


# Design decision 6 (operator proposes, lender or policy accepts) and issue 4.
PARTIES = {
    "maintenance": {Role.OPERATOR, Role.LENDER},
    "gpu_replacement": {Role.OPERATOR, Role.LENDER},
    "board_swap": {Role.OPERATOR, Role.LENDER},
    "host_swap": {Role.OPERATOR, Role.LENDER},
    "move": {Role.OPERATOR, Role.LENDER},
    "reinstall": {Role.OPERATOR, Role.LENDER},
    "release": {Role.OPERATOR, Role.LENDER},
    "custody": {Role.CUSTODIAN, Role.LENDER},
}


@pytest.mark.parametrize("kind", list(Kind))
def test_who_must_sign(kind):
    roles = needed(event(kind), accept_maintenance_ms=0)
    if kind is Kind.REDEMPTION:
        assert roles == (Role.LENDER,)
    elif kind in {Kind.RE_ENROL, Kind.VALUE_OVERRIDE}:
        assert roles == (Role.LENDER, Role.LENDER)
    else:
        assert (set(roles), len(roles)) == (PARTIES[kind], 2)


def test_policy_stands_in_for_the_lender_at_short_maintenance_alone():
    assert needed(event("maintenance"), accept_maintenance_ms=HOUR_MS) == (Role.OPERATOR,)
    assert len(needed(event("maintenance"), accept_maintenance_ms=HOUR_MS - 1)) == 2
    for kind in set(Kind) - {Kind.MAINTENANCE, Kind.REDEMPTION}:
        assert len(needed(event(kind), accept_maintenance_ms=DAY_MS)) == 2
