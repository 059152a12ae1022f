"""What watches a valuer: rules by promtool, the dashboard and the rules by a real Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from demo import world
from tests.fakes.prometheus import Prometheus

ROOT = Path(__file__).resolve().parent.parent.parent
GRAFANA = ROOT / "grafana"
RULES = sorted((GRAFANA / "prometheus").glob("*.rules.yml"))
RULE_TESTS = sorted((ROOT / "tests" / "prometheus").glob("*_test.yml"))
DASHBOARD = json.loads((GRAFANA / "dashboards" / "lenders.json").read_text())
# What Grafana puts for its variables.
VARIABLES = {"$loan": ".*", "$host": ".*", "$__rate_interval": "15s", "$__interval": "15s"}


# The host of which a GPU falls off its bus.
FAULTY = next(site for site in world.SITES if site.fault_at_s is not None)


def rules(path: Path) -> list[dict]:
    groups = yaml.safe_load(path.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = [rule for path in RULES for rule in rules(path)]


def panels() -> list[dict]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    argv = [str(word) for word in command]
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\bassay_\w+", expression))


# ------------------------------------------------------------------------------- without a valuer


def test_rules_are_valid(requires_tool):
    done = run(requires_tool("promtool"), "check", "rules", *RULES)
    assert done.returncode == 0, done.stderr


def test_the_shipped_prometheus_configuration_is_valid(requires_tool):
    done = run(
        requires_tool("promtool"), "check", "config", GRAFANA / "prometheus" / "prometheus.yml"
    )
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_rules_pass_their_unit_tests(requires_tool, path):
    done = run(requires_tool("promtool"), "test", "rules", path.name, cwd=path.parent)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_a_broken_rule_fails_its_unit_test(requires_tool, tmp_path, path):
    """Each alert in turn never fires: promtool must notice every one of them."""
    source = RULES[[rule.name for rule in RULES].index(path.name.replace("_test.", ".rules."))]
    broken = yaml.safe_load(source.read_text())
    for group in broken["groups"]:
        for rule in group["rules"]:
            rule["expr"] = "vector(0) > 1"
    (tmp_path / source.name).write_text(yaml.safe_dump(broken))
    cases = yaml.safe_load(path.read_text())
    cases["rule_files"] = [source.name]
    (tmp_path / path.name).write_text(yaml.safe_dump(cases))
    done = run(requires_tool("promtool"), "test", "rules", path.name, cwd=tmp_path)
    assert done.returncode != 0
    unnoticed = {rule["alert"] for rule in rules(source)} - set(
        re.findall(r"alertname: (\w+)", done.stdout + done.stderr)
    )
    assert unnoticed == set()


def test_every_alert_is_tested_quiet_and_firing():
    quiet, firing = set(), set()
    for path in RULE_TESTS:
        for case in yaml.safe_load(path.read_text())["tests"]:
            for check in case["alert_rule_test"]:
                (firing if check["exp_alerts"] else quiet).add(check["alertname"])
    names = {rule["alert"] for rule in ALERTS}
    assert len(names) == len(ALERTS)
    assert firing == names
    assert quiet == names


def test_every_alert_says_what_to_do():
    """A valuer's names its heading in the runbook, an agent's its own page: see test_operators."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    for rule in ALERTS:
        said = rule["annotations"]
        assert {"summary", "description"} <= said.keys(), rule["alert"]
        page, _, anchor = (said.get("runbook") or said["runbook_url"]).partition("#")
        assert (ROOT / page).exists()
        assert not anchor or anchor in anchors, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")


@pytest.mark.parametrize("name", ["lenders", "operators"])
def test_the_dashboard_is_one_that_grafana_can_provision(name):
    dashboard = json.loads((GRAFANA / "dashboards" / f"{name}.json").read_text())
    assert dashboard["uid"] == f"assay-{name}"
    assert dashboard["schemaVersion"] >= 36  # Grafana 9 and newer
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in (panel for panel in dashboard["panels"] if panel["type"] != "row"):
        assert panel["description"], panel["title"]
        assert panel["targets"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs), panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}", panel["title"]
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} overlaps {taken[(x, y)]}"
                taken[(x, y)] = panel["title"]
    providers = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "assay.yml").read_text())
    sources = yaml.safe_load(
        (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )
    assert providers["providers"][0]["type"] == "file"
    assert sources["datasources"][0]["type"] == "prometheus"


def test_evidence_of_tpm_and_device_ages_apart_and_what_there_is_not_has_no_line(
    requires_tool, tmp_path
):
    """The panel's own query over series that the demo's world has only half of."""
    (panel,) = (one for one in panels() if one["title"] == "Age of evidence")
    host = 'host="a", site="lab", simulated="false"'
    case = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {
                        "series": f"assay_host_tpm_quote_timestamp_seconds{{{host}}}",
                        "values": "0x9",
                    },
                    {
                        "series": 'assay_gpu_device_proof_timestamp_seconds{gpu="1", host="a"}',
                        "values": "120x9",
                    },
                    {
                        "series": 'assay_gpu_device_proof_timestamp_seconds{gpu="2", host="a"}',
                        "values": "60x9",
                    },
                ],
                "promql_expr_test": [
                    {
                        "expr": filled(panel["targets"][0]["expr"]),
                        "eval_time": "5m",
                        "exp_samples": [
                            {"labels": f'{{{host}, proof="TPM"}}', "value": 300},
                            {"labels": '{host="a", proof="device"}', "value": 240},
                        ],
                    }
                ],
            }
        ],
    }
    (tmp_path / "panel_test.yml").write_text(yaml.safe_dump(case))
    done = run(requires_tool("promtool"), "test", "rules", "panel_test.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------------------------- with a valuer


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[world.World]:
    """The demo's world with two of its hosts: every metric has a reason to be there.

    One has a TPM where one can be simulated here, and of the other a GPU is being replaced.
    """
    place = world.fresh(tmp_path_factory.mktemp("watching") / "world")
    try:
        rpc, url = world.start_chain(place)
        hub, keys = world.set_up_hub(place, rpc)
        world.start_tpm(place)
        world.set_up_valuer(place, hub, url, keys)
        world.add_parties(place)
        world.sign_covenant(place, world.SITES[0])
        token = world.token(place)
        for site in world.SITES:
            if site.fault_at_s is not None or site is world.SITES[0]:
                world.start_simulated(place, site, token)
        world.replace_gpu(place, FAULTY, 5)
        yield place
    finally:
        place.close()


@pytest.fixture(scope="module")
def prometheus(place, tmp_path_factory) -> Iterator[Prometheus | None]:
    from scripts import tools

    program = tools.locate("prometheus")
    if isinstance(program, tools.Missing):
        yield None  # the test that asks for it says so, through requires_tool
        return
    target = json.loads(place.valuer_config.read_text())["metrics"]["listen"]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in RULES],
        "scrape_configs": [{"job_name": "assay-valuer", "static_configs": [{"targets": [target]}]}],
    }
    running = Prometheus(program, tmp_path_factory.mktemp("prometheus"), config)
    yield running
    running.close()


def eventually(what: str, found, seconds: float = 120.0):
    end = time.monotonic() + seconds
    while True:
        result = found()
        if result:
            return result
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(1)


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def found_out(requires_tool, place, prometheus) -> None:
    """A host that shows a GPU of the one with a TPM, once that was quoted, and is frozen for it."""
    requires_tool("prometheus")
    requires_tool("swtpm")
    eventually("a quote", lambda: prometheus.query("assay_host_tpm_quote_timestamp_seconds"))
    if not place.agent_config("clone").exists():
        world.start_clone(place, world.token(place))
    eventually("the freeze", lambda: prometheus.query("assay_host_frozen"))


def test_every_panel_has_data(requires_tool, place, prometheus):
    found_out(requires_tool, place, prometheus)
    empty = {
        (panel["title"], filled(target["expr"]))
        for panel in panels()
        for target in panel["targets"]
    }
    total = len(empty)

    def look() -> bool:
        place.check()
        empty.difference_update({one for one in empty if prometheus.query(one[1])})
        return not empty

    try:
        eventually("every panel", look)
    finally:
        assert empty == set(), f"{len(empty)} of {total} queries return nothing"


def test_what_trust_is_like_is_seen(requires_tool, place, prometheus):
    """What the host that shows another's GPU is frozen for, and nobody else."""
    found_out(requires_tool, place, prometheus)
    firing = 'ALERTS{alertname="AssayFrozen", alertstate="firing"}'
    (alert,) = eventually("the alert", lambda: prometheus.query(firing))
    assert alert["metric"]["code"] == "false_claim"
    (bound,) = prometheus.query('assay_host_tpm{state="simulated"}')
    assert alert["metric"]["host"] != bound["metric"]["host"]
    (claim,) = prometheus.query("assay_gpu_claims")
    assert claim["metric"]["host"] == bound["metric"]["host"]
    assert claim["metric"]["verdict"] == "false"
    (moving,) = prometheus.query("assay_gpu_transition_end_timestamp_seconds")
    assert (moving["metric"]["kind"], moving["metric"]["awaits"]) == (
        "gpu_replacement", "successor")  # fmt: skip
    assert prometheus.query('assay_loan_assurance_level{loan="loan-b200"} == 1')
    assert prometheus.query('ALERTS{alertname=~"AssayEvidence.*|AssayClaimed"}') == []


def test_every_rule_is_about_metrics_the_valuer_has(requires_tool, place, prometheus):
    found_out(requires_tool, place, prometheus)
    eventually("a first scrape", lambda: prometheus.query("assay_feed_round"))
    used = {name for rule in rules(GRAFANA / "prometheus" / "valuer.rules.yml")
            for name in metrics_in(rule["expr"])}  # fmt: skip
    # There while a GPU itself is frozen, and none is here: tests/unit/test_watch_trust.py has it.
    seldom = {"assay_gpu_frozen"}
    assert {name for name in used if not prometheus.query(name)} == seldom


def test_a_gpu_that_falls_off_the_bus_alerts(requires_tool, place, prometheus):
    requires_tool("prometheus")
    firing = 'ALERTS{alertname="AssayGpuMissing", alertstate="firing"}'
    (alert,) = eventually("the alert", lambda: prometheus.query(firing))
    assert alert["metric"]["simulated"] == "true"
    assert alert["metric"]["loan"] == "loan-h100"
    eventually(
        "coverage", lambda: prometheus.query('assay_loan_coverage_ratio{loan="loan-h100"} < 1')
    )
    quiet = prometheus.query('ALERTS{alertname=~"AssayForkSeen|AssayWindowsRefused|AssayBookOld"}')
    assert quiet == []
