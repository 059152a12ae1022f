"""docs/telemetry.md: its tables are what the code says, and its comparison passes no row over."""

from __future__ import annotations

import re

from assay_agent.metrics import AgentMetrics
from assay_core import codec
from assay_core.header import Source
from assay_core.health import RULES
from assay_core.leaves import Group, IncidentKind, Reason, Severity
from scripts import telemetry_docs
from tests.unit.test_agent_metrics import A, draft, incident, poll, values

PAGE = telemetry_docs.PAGE.read_text()
MONITORS = ["gpud", "FIA", "DCGM + exporter", "NGE", "nvitop-exporter"]
# The rows of the telemetry table that every monitor is held against: a word of each.
TOPICS = """
Serial, PDI, module, certificate, Utilisation, GPM, MIG instance, Processes, Energy, limits, Odometer,
black box, Remapped rows, Spare rows, Unrepairable, ECC totals, SRAM, Retired pages, Inforom,
power smoothing, margin, slowed down, NVLink, AER, Fabric, Chassis, Xids, come and go,
recovery action, confidential computing, who has the GPU
"""
BEHAVIOURS = """
Install, Privilege, Interval, Kept, line is down, never returns, lost after, comes later, Incidents,
Signed, API, Alerts, without a GPU
"""


def section(heading: str) -> str:
    return PAGE.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_tables_are_up_to_date():
    assert telemetry_docs.filled(PAGE) == PAGE, "run make docs"


def test_every_field_says_where_it_comes_from_and_when():
    found = {}
    for group in Group:
        head, *body = rows(section(f"### The group {group.value}"))
        assert head[:5] == ["Field", "Unit", "What it is", "Read by", "When"]
        assert [row[0] for row in body] == [f"`{name}`" for name in codec.fields_of(group)]
        for row in body:
            found[row[0].strip("`")] = row
            assert row[2], row[0]
            assert row[3], row[0]
            assert row[4] in ("tick", "window", "day", "at once"), row[0]
    notes = {name for name, row in found.items() if row[6]}
    assert notes == telemetry_docs.NOTES.keys()
    asked = {
        name
        for name, row in found.items()
        if row[3] == telemetry_docs.ELSEWHERE.get(name, ("",))[0]
    }
    assert telemetry_docs.ELSEWHERE.keys() == asked


def test_every_rule_is_in_the_table_with_its_source():
    _, *body = rows(section("## Health rules"))
    assert len(body) == len(RULES)
    assert all(row[3] and row[6] for row in body)


def test_every_reason_is_named():
    named = set(re.findall(r"`(\w+)`", section("## How a reading is taken")))
    assert {reason.label for reason in Reason} <= named


def test_every_metric_that_is_named_is_one_that_there_is():
    metrics = AgentMetrics(Source.NVML)
    metrics.take(poll((A, values(temperature_mc=Reason.NO_PERMISSION))))
    metrics.sealed_window(draft(A, incident(IncidentKind.XID, 79, Severity.IMPAIRED)))
    text = "".join(metrics.pages(openmetrics=False))
    metrics.take(poll((A, values())))
    text += "".join(metrics.pages(openmetrics=False))
    metrics.take(poll())
    text += "".join(metrics.pages(openmetrics=False))
    there = set(re.findall(r"^(assay_\w+)", text, re.MULTILINE))
    named = set(re.findall(r"`(assay_(?:gpu|platform)_\w+)`", PAGE))
    assert len(named) > 100
    assert named - there == set()
    of_gpus = {name for name in there if re.match(r"assay_(gpu|platform)_", name)}
    assert {name for name in of_gpus - named if "mig_instance" not in name} == set()


def test_the_comparison_passes_no_row_over():
    for heading, topics in (("### What is read", TOPICS), ("### How it behaves", BEHAVIOURS)):
        head, *body = rows(section(heading))
        assert head == ["Row", "Assay", *MONITORS]
        for topic, row in zip(re.split(r",\s+", topics.strip()), body, strict=True):
            assert topic in row[0]
            assert len(row) == len(head)
            assert all(row), row[0]


def test_what_we_lack_is_said_of_every_monitor():
    lacks = section("### What they have and we lack")
    for monitor in ("gpud", "FIA", "DCGM", "NGE", "nvitop-exporter"):
        assert f"- **{monitor}" in lacks
    read = {name for group in Group for name in codec.fields_of(group)}
    for word in ("fan", "encoder", "decoder", "bar1", "vgpu", "nvswitch", "video"):
        assert not any(word in name for name in read)
