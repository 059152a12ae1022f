"""The examples in the manual are read by the very code they are for."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from assay_agent import config as agent_config
from assay_agent.cli import main as agent
from assay_agent.config import AgentConfig
from assay_agent.telemetry import scenario, simulation
from assay_core import appraisal, asset_events
from assay_core.appraisal import ASSETS_MAX, AppraisalRefusal
from assay_core.asset_events import AssetEvent, Kind
from assay_core.covenant import CovenantRefusal, decode
from assay_core.errors import FileError
from assay_core.files import parse
from assay_core.signatories import Role, needed
from assay_valuer import config
from assay_valuer.appraisal_draft import read_appraisal
from assay_valuer.covenant_draft import read_covenant
from assay_valuer.credit.covenant import Level
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.events.draft import read_event
from assay_valuer.market.feeds import rows
from assay_valuer.market.feeds.feed import BYTES_MAX, COLUMNS, Fault, Format
from assay_valuer.market.feeds.open import open_feeds
from assay_valuer.market.feeds.web import Limits
from assay_valuer.market.models import PRODUCTS
from assay_valuer.market.observations import Market, Quote, read_row
from assay_valuer.market.prices import read_prices
from assay_valuer.market_task import RETRY_S
from assay_valuer.policy import ValuerPolicy

ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "docs" / "collateral.md").read_text(encoding="utf-8")


def needed_of(kind):
    event = AssetEvent(kind=kind, nonce="", why="", begin_ms=0, until_ms=1)
    return needed(event, accept_maintenance_ms=0)


def blocks(language, text=MANUAL):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_configuration_that_a_newcomer_begins_with(tmp_path):
    (settings,) = blocks("yaml", (ROOT / "README.md").read_text(encoding="utf-8"))
    file = tmp_path / "valuer.yaml"
    file.write_text(settings)
    assert config.load(file).enrolment.public == "valuer.example.com:8443"


def test_what_the_runbook_says_of_trying_it_on_one_machine(tmp_path):
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    _, section = text.split("### Try everything on one machine\n")
    fleet, agents, valuers = blocks("yaml", section.split("\n### ")[0])
    assert len(simulation.gpus_of(scenario.parse(fleet, "scenario.yaml"))) == 2
    file = tmp_path / "one.yaml"
    file.write_text(agents)
    assert agent_config.load(file).source.kind == "simulated"
    file.write_text(valuers)
    trial = config.load(file)
    assert "simulated" in trial.sources
    assert trial.policy.credit_simulated


def test_an_agent_needs_an_empty_file_and_no_more(tmp_path):
    file = tmp_path / "agent.yaml"
    file.touch()
    assert agent_config.load(file) == AgentConfig()


def test_a_command_reads_the_file_that_the_service_reads(tmp_path):
    """Whoever enrols by hand, as the README has it, enrols as the service runs: in its TPM, say."""
    usual, named, given = (tmp_path / name for name in ("agent.yaml", "named.yaml", "given.yaml"))
    variable = {agent_config.VARIABLE: str(named)}
    assert agent_config.chosen(None, {}, usual) is None
    usual.touch()
    assert agent_config.chosen(None, {}, usual) == usual
    assert agent_config.chosen(None, variable, usual) == named
    assert agent_config.chosen(given, variable, usual) == given
    unit = (ROOT / "systemd" / "assay-agent.service").read_text(encoding="utf-8")
    assert f"run --config {agent_config.USUAL}\n" in unit


def test_a_command_says_which_file_it_was_that_it_could_not_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(agent_config.VARIABLE, str(tmp_path / "none.yaml"))
    assert agent(["read"]) == 2
    assert "none.yaml: cannot be read" in capsys.readouterr().err


def test_a_file_that_no_collector_would_read_is_refused(tmp_path):
    file = tmp_path / "agent.yaml"
    file.write_text("metrics: {textfile: /var/lib/node_exporter/assay.txt}\n")
    with pytest.raises(FileError, match=r"assay\.txt does not end in \.prom"):
        agent_config.load(file)
    with pytest.raises(FileError, match=r"cannot be read: No such file or directory$"):
        agent_config.load(tmp_path / "none.yaml")


def test_the_examples_are_good_files():
    prices, _, _ = blocks("csv")
    _, loan, event, covenant, appraised, policy = blocks("yaml")
    assert len(read_prices(prices, "prices.csv").rows) == 3
    read = read_loan(loan, "loan.yaml")
    assert [read.reserved_for(gpu)[0] for gpu in read.pledge] == ["fra1", "fra2"]
    released = asset_events.decode(read_event(event, "event.yaml").payload)
    assert (released.kind, released.loan) == (Kind.RELEASE, read.id)
    assert [gpu.serial for gpu in released.assets] == [read.pledge[1].serial]
    worth = appraisal.decode(read_appraisal(appraised, "appraisal.yaml").payload)
    assert [gpu.serial for gpu in worth.assets] == [gpu.serial for gpu in read.pledge]
    agreed = decode(read_covenant(covenant, "covenant.yaml").payload)
    assert (agreed.loan, agreed.thresholds.call_bps) == (read.id, 8_500)
    assert parse(policy, ValuerPolicy, "policy.yaml").market.price_age_max_days == 90


def test_the_price_feeds_are_as_the_valuer_reads_them(tmp_path):
    file = tmp_path / "valuer.yaml"
    file.write_text(blocks("yaml")[0])
    market = config.load(file).market
    assert [(feed.name, feed.market) for feed in open_feeds(market)] == [
        ("rentals", Market.RENTAL),
        ("sales", Market.RESALE),
        ("ours", Market.RESALE),
    ]
    for text, kind in zip(blocks("csv")[1:], (Market.RENTAL, Market.RESALE), strict=True):
        found = rows.parse(text.encode(), Format.CSV, kind, "example")
        assert (len(found.rows), found.unread) == (1, ())
        assert tuple(text.splitlines()[0].split(",")) == COLUMNS[kind]
        last_day = date(2026, 11, 21).toordinal()
        # Its only fault is that it says of itself that it is made up.
        judged = read_row(dict(found.rows[0]) | {"source_repo": "a list"}, 1, kind, last_day)
        assert isinstance(judged, Quote)


def test_every_way_a_feed_fails_is_in_the_manual_with_its_bounds():
    (told,) = re.findall(r"^## Price feeds.*?(?=^## )", MANUAL, re.MULTILINE | re.DOTALL)
    codes = re.findall(r"^\| (`[a-z_`, ]+`) \|", told, re.MULTILINE)
    assert {code for one in codes for code in re.findall(r"`([a-z_]+)`", one)} == set(Fault)
    limits = Limits()
    for bound in (
        f"after {limits.attempts} attempts",
        f"in {limits.total_s:g} s",
        f"longer than {limits.wait_max_s:g} s",
        f"more than {limits.redirects_max} times",
        f"{BYTES_MAX // 1024**2} MiB",
        f"{rows.ROWS_MAX:,} rows",
        f"{rows.UNREAD_MAX:,} rows that are none",
    ):
        assert bound in told, bound
    assert RETRY_S == 600


def test_the_table_of_who_signs_is_what_is_asked():
    (parties,) = re.findall(r"^## Parties.*?(?=^## )", MANUAL, re.MULTILINE | re.DOTALL)
    told = {
        kind: signs
        for kinds, signs in re.findall(
            r"^\| (`[a-z_`, ]+`)[^|]*\| ([^|]+?) \|", parties, re.MULTILINE
        )
        for kind in re.findall(r"`([a-z_]+)`", kinds)
    }
    assert set(told) == {kind.value for kind in Kind}
    for kind in Kind:
        roles = needed_of(kind)
        if len(set(roles)) < len(roles):
            assert told[kind] == "two lenders"
        else:
            assert {role for role in Role if role in told[kind]} == set(roles)


def test_it_names_every_level_and_every_reason_that_a_covenant_is_refused_for():
    (told,) = re.findall(r"^## Covenants.*?(?=^## )", MANUAL, re.MULTILINE | re.DOTALL)
    assert {one for one in CovenantRefusal if f"`{one.value}`" not in told} == set()
    assert {one for one in Level if f"**{one.value}**" not in told} == set()


def test_it_names_every_reason_that_an_appraisal_is_refused_for():
    (told,) = re.findall(r"^## Appraisals.*?(?=^## )", MANUAL, re.MULTILINE | re.DOTALL)
    assert {one for one in AppraisalRefusal if f"`{one.value}`" not in told} == set()
    assert f"{ASSETS_MAX:,}" in told


def test_its_prices_are_of_products_that_gpus_are_matched_with():
    prices, _, _ = blocks("csv")
    known = set(PRODUCTS.values())
    assert {product for product, _ in read_prices(prices, "prices.csv").rows} <= known


def test_the_yearly_rate_it_names_is_the_rate_per_second_it_names():
    assert 0.12 * 10**18 / (365 * 86_400) - 3_805_175_038 < 1
