"""docs/threat-model.md: every threat is there, every test that it names exists, its numbers are the code's."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from assay_core.asset_events import CUSTODY_MAX_MS
from assay_core.evidence.ek import TPM_ROOTS, TPM_ROOTS_VERSION
from assay_core.instants import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from assay_core.money import Usd
from assay_core.units import BPS
from assay_valuer.policy import ValuerPolicy
from assay_valuer.standing.assurance import CUSTODY, NAMES, Known, assure
from assay_valuer.standing.trust import AssetTrust, Custody, HostProofs
from tests.fakes.collateral import NOW
from tests.fakes.proofs import HOST, answers, device, tpm

TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS.parent / "docs" / "threat-model.md").read_text(encoding="utf-8")
POLICY = ValuerPolicy()
NET_USD = 20_000
NAMED = re.findall(r"`([a-z_]+/\w+\.py)::(\w+)`", PAGE)
ATTACKS = ("Attacks on the evidence itself", "Attacks on what people sign, and on the API")
MUST_SAY = ("**What.**", "**Against it.**", "**Tests.**", "**The lie costs.**", "**What remains.**")


@cache
def source(path: str) -> str:
    return (TESTS / path).read_text(encoding="utf-8")


def section(heading: str) -> str:
    return re.split(r"\n## ", PAGE.partition(f"\n## {heading}\n")[2])[0]


def table(text: str, first: str) -> list[list[str]]:
    """The rows of the table whose heading begins so, without heading and rule."""
    lines = text[text.index(f"| {first} |") :].split("\n\n", maxsplit=1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


THREATS = dict(re.findall(r"\n### (T\d+): [^\n]+\n(.*?)(?=\n###? |\Z)", PAGE, re.DOTALL))


def test_every_threat_of_the_table_is_there_in_its_order():
    assert list(THREATS) == [f"T{number}" for number in range(1, 14)]


@pytest.mark.parametrize("threat", THREATS)
def test_a_threat_says_what_stands_against_it_what_it_costs_and_what_remains(threat):
    places = [THREATS[threat].find(heading) for heading in MUST_SAY]
    assert -1 not in places
    assert places == sorted(places)
    assert re.search(r"`[a-z_]+/\w+\.py::test_", THREATS[threat])


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_a_test_that_is_named_exists(path, name):
    assert re.search(rf"^ *(async )?def {name}\(", source(path), re.MULTILINE)


def test_nothing_that_looks_like_a_test_escapes():
    assert len(re.findall(r"::test_|`test_", PAGE)) == len(NAMED) > 60


@pytest.mark.parametrize(
    "row",
    [row for heading in ATTACKS for row in table(section(heading), "attack")],
)
def test_an_attack_has_an_outcome_and_a_test(row):
    attack, outcome, named = row
    assert attack
    assert outcome
    assert re.search(r"`[a-z_]+/\w+\.py::test_", named)


# ---------------------------------------------------------------------------- the numbers


def share(text: str) -> int:
    """Basis points of "17.5%"."""
    return round(float(text.removesuffix("%")) * 100)


def duration_ms(text: str) -> int:
    number, unit = text.split()[:2]
    return int(number) * {"min": MINUTE_MS, "h": HOUR_MS, "days": DAY_MS}[unit]


def test_caps_and_times_are_the_policys():
    rows = {row[0]: row for row in table(section("Levels of assurance"), "level")}
    assert [name for name in rows if name != "+C"] == list(NAMES)
    for level, name in enumerate(NAMES):
        assert share(rows[name][3]) == POLICY.assurance.cap_bps(level)
    evidence = POLICY.evidence
    for name, interval_s in (
        ("L1", evidence.tpm_interval_s),
        ("L2", evidence.device_interval_s),
        ("L2+", evidence.device_interval_s),
    ):
        interval_ms = interval_s * SECOND_MS
        assert duration_ms(rows[name][4]) == evidence.full_intervals * interval_ms
        assert duration_ms(rows[name][5]) == evidence.decayed_intervals * interval_ms
    points, most = re.findall(r"(\d+) points more, at most (\S+)", rows["+C"][3])[0]
    assert int(points) * 100 == POLICY.assurance.custody_bps
    assert share(most) == POLICY.assurance.max_bps
    assert f"at most {CUSTODY_MAX_MS // DAY_MS} days" in rows["+C"][4]


def test_what_the_page_tells_in_words_is_the_policys():
    words = " ".join(PAGE.split())
    evidence, silence = POLICY.evidence, POLICY.silence
    for value, expected, told in (
        (evidence.full_intervals, 2, "counts in full for two intervals"),
        (evidence.decayed_intervals, 3, "after three it is worth the level below"),
        (evidence.silence_zero_s, 7 * 86_400, "shows nothing for seven days lends nothing"),
        (evidence.answer_within_s, 300, "by one host, within five minutes"),
        (evidence.ocsp_age_max_s, 86_400, "responder is believed for a day"),
        (silence.host_grace_s, 6 * 3_600, "after six hours the GPU leaves the count"),
        (silence.gpu_grace_s, 900, "it leaves the count 15 minutes later"),
    ):
        assert value == expected
        assert told in words


def age_ms(text: str) -> int | None:
    return None if text == "never" else duration_ms(text.removesuffix(" ago"))


WORKED = table(section("Levels of assurance"), "TPM quoted")


@pytest.mark.parametrize("row", WORKED)
def test_the_worked_example_is_what_the_code_makes_of_it(row):
    quoted, answered, board, custody, level, percent, lent = row
    quoted_ms, answered_ms = age_ms(quoted), age_ms(answered)
    held = Custody(event_id=1, custodian="c", until_ms=NOW, document_sha256="d")
    known = Known(
        AssetTrust(
            proof=None if answered_ms is None else device(answered_ms, whole=board == "whole"),
            custody=(held,) if custody == "yes" else (),
        ),
        HostProofs() if quoted_ms is None else tpm(quoted_ms),
        HOST,
        NOW,
        answers(),
    )
    found = assure(known, POLICY, NOW)
    name = NAMES[found.code & ~CUSTODY] + ("+C" if found.code & CUSTODY else "")
    assert (name, found.cap_bps) == (level, share(percent))
    assert str(Usd(NET_USD * 1_000_000).times_down(found.cap_bps, BPS)) == f"{lent}.00"


def test_the_worked_example_shows_every_level_that_is_reached():
    assert {row[4] for row in WORKED} == {"L0", "L1", "L2", "L2+", "L2+C"}


def test_makers_of_tpms_are_those_of_the_list():
    makers = {root.manufacturer for root in TPM_ROOTS.values()}
    listed = re.search(r"is short: ([^.]+)\. Intel's", PAGE)
    assert listed is not None
    assert set(listed[1].replace("\n  ", " ").split(", ")) == makers
    assert f"version {TPM_ROOTS_VERSION}](../core/assay_core/evidence/tpm_roots_v" in PAGE
