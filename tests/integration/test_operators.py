"""What operators look at: the dashboard and the rules over a real Prometheus, and a page an alert."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from assay_agent.config import MetricsConfig
from assay_agent.metrics import AgentMetrics
from assay_core.leaves import IncidentKind, Reason, Severity
from scripts import tools
from tests.integration.test_agent_metrics import Prometheus, free_port, serving
from tests.unit.test_agent_metrics import NOW_MS, A, B, draft, incident, poll, values

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "runbooks"
DASHBOARD = json.loads((ROOT / "grafana" / "dashboards" / "operators.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "grafana/prometheus/agent.rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
SECTIONS = ["What it means", "How to check", "What to do", "What the lender sees"]
# What Grafana puts for its variables.
VARIABLES = {"$instance": ".*", "$gpu": ".*", "$__rate_interval": "15s"}


def test_every_alert_has_a_page_and_every_page_an_alert():
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    assert {page.stem for page in PAGES.iterdir()} == {rule["alert"] for rule in RULES}
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    assert set(re.findall(r"\]\(runbooks/(\w+)\.md\)", runbook)) == {r["alert"] for r in RULES}


@pytest.mark.parametrize("page", sorted(PAGES.iterdir()), ids=lambda page: page.stem)
def test_a_page_says_what_there_is_to_say(page):
    title, *headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    assert title == page.stem
    assert headings == SECTIONS
    for section in re.split(r"^## .+$", page.read_text(), flags=re.MULTILINE)[1:]:
        assert section.strip()


def filled(metrics: AgentMetrics) -> None:
    """As much as an agent can say, all at once."""
    metrics.take(
        poll((A, values()), (B, values()), hidden_gpus=(), phantom_gpus=(), pci_gpu_count=2)
    )
    # A field without a value, for the panel that counts those; the other GPU has it.
    metrics.take(
        poll(
            (A, values(inforom_valid=Reason.NO_PERMISSION, power_mw=Reason.INVALID_VALUE)),
            (B, values()),
            at_ms=int(time.time() * 1000),
        )
    )
    metrics.sealed_window(draft(A, incident(IncidentKind.XID, 79, Severity.IMPAIRED)))
    metrics.sealed_window(draft(B, incident(IncidentKind.XID, 48, Severity.DEGRADED)))
    for gauge in (
        metrics.missing_gpus,
        metrics.last_sealed,
        metrics.spool_bytes,
        metrics.unacknowledged,
        metrics.last_acknowledged,
        metrics.certificate_expiry,
        metrics.clock_offset,
    ):
        gauge.set(NOW_MS / 1000)
    metrics.count_refusal("overloaded")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory) -> Iterator[Prometheus | None]:
    program = tools.locate("prometheus")
    if isinstance(program, tools.Missing):
        yield None  # the test that asks for it says so, through requires_tool
        return
    port = free_port()
    with serving(MetricsConfig(listen=f"127.0.0.1:{port}")) as metrics:
        filled(metrics)
        job = {
            "scrape_configs": [
                {
                    "job_name": "agent",
                    "scrape_interval": "1s",
                    "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
                }
            ]
        }
        running = Prometheus(program, tmp_path_factory.mktemp("prometheus"), job)
        try:
            yield running
        finally:
            running.close()


def panels() -> list[dict]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> list[tuple[str, str]]:
    found = []
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            found.append((panel["title"], expression))
    return found


def test_every_panel_has_data(requires_tool, prometheus):
    requires_tool("prometheus")
    prometheus.eventually("rate(process_cpu_seconds_total[15s])")
    empty = {(title, query) for title, query in queries() if not prometheus.query(query)}
    assert empty == set()
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.match(
                r"label_values\((\w+).*, (\w+)\)", variable["definition"]
            ).groups()
            assert all(label in row["metric"] for row in prometheus.query(metric))
            assert prometheus.query(metric)


def test_every_metric_of_the_rules_and_the_dashboard_is_one_the_agent_has(
    requires_tool, prometheus
):
    requires_tool("prometheus")
    prometheus.eventually("assay_gpu_up")
    expressions = [rule["expr"] for rule in RULES] + [query for _, query in queries()]
    used = {name for text in expressions for name in re.findall(r"\b(?:assay|process)_\w+", text)}
    assert len(used) > 30
    # One that only appears once a full spool has dropped something is there from the start.
    assert {name for name in used if not prometheus.query(name)} == set()


def test_a_query_for_what_there_is_not_would_be_noticed(requires_tool, prometheus):
    requires_tool("prometheus")
    prometheus.eventually("assay_gpu_up")
    assert prometheus.query("assay_gpu_no_such_thing") == []
