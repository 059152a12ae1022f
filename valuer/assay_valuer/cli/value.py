"""`assay-valuer value`: GPU → value → why → loan → LTV → round."""

from __future__ import annotations

import argparse

from assay_core.instants import format_instant
from assay_valuer.cli.common import (
    FALSE,
    OK,
    Commands,
    add_command,
    opened,
    print_json,
    print_table,
    say,
)
from assay_valuer.cli.gpu import assurance_of, presence_of
from assay_valuer.credit.position import percent
from assay_valuer.results import StoredIndication, StoredValues
from assay_valuer.rows import GpuRow, LoanRow, gpu_rows, loan_rows, usd


def add_parser(commands: Commands) -> None:
    """Registers the command."""
    parser = add_command(
        commands,
        "value",
        "show what every GPU is worth, and why, and how it covers its loan",
        "assay-valuer value --json",
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tables, or JSON: an automated valuation, not an appraisal."""
    with opened(args) as state:
        gpus, loans = state.database.read(lambda c: (gpu_rows(c), loan_rows(c)))
        policy = state.config.policy
    if args.json:
        print_json({"policy": policy, "gpus": gpus, "loans": loans})
        return OK
    print_table(
        (
            "GPU",
            "presence",
            "OLV low / mid / high",
            "net mid",
            "approaches (FMV, weight)",
            "lent on",
            "why",
            "loan",
        ),
        [_gpu_cells(gpu) for gpu in gpus],
        prose="why",
    )
    if loans:
        print_table(
            (
                "loan",
                "covenant",
                "covenant LTV",
                "risk",
                "at",
                "debt",
                "OLV",
                "risk LTV gross / net",
                "counts",
                "lendable",
                "round",
            ),
            [_loan_cells(loan) for loan in loans],
        )
        say("the covenant alone calls a loan; risk is the house's view, and advises")
    say(
        "lent on: what the house takes one such GPU at, before assurance; each step: `assay-valuer explain`"
    )
    say(f"automated valuation under policy {policy.name!r}; haircuts are judgement, see the policy")
    if any(gpu.result is not None for gpu in gpus):
        return OK
    say("nothing has been valued yet: is `assay-valuer run` running?")
    return FALSE


def _gpu_cells(gpu: GpuRow) -> tuple[str, ...]:
    result, loan = gpu.result, gpu.loan or ""
    if result is None:
        return (gpu.serial or f"asset-{gpu.id}", "not valued yet", "", "", "", "", "", loan)
    counted = presence_of(gpu) + ("" if result.counts else "\nnot counted")
    return (
        result.gpu,
        f"{counted}\n{assurance_of(result.assurance)}",
        _olv(result.values),
        "unknown" if result.values is None else usd(result.values.nolv.mid_micros),
        "\n".join(map(_approach, result.indications)),
        "unknown" if result.lending_micros is None else usd(result.lending_micros),
        "\n".join(finding.detail for finding in result.findings),
        loan,
    )


def _approach(one: StoredIndication) -> str:
    return f"{one.approach} {usd(one.range.mid_micros)}, {percent(one.weight_bps)}"


def _olv(values: StoredValues | None) -> str:
    if values is None:
        return "unknown"
    low, mid, high = values.olv.low_micros, values.olv.mid_micros, values.olv.high_micros
    return f"{usd(low)} / {usd(mid)} / {usd(high)}"


def _loan_cells(loan: LoanRow) -> tuple[str, ...]:
    position = loan.position
    rounds = "\n".join(f"{one.round} {one.state}" for one in loan.rounds) or "none"
    if position is None:
        return (loan.id, *_covenant_cells(loan), "not valued yet", "", "", "", "", "", "", rounds)
    return (
        loan.id,
        *_covenant_cells(loan),
        position.state + (", SIMULATED" if position.simulated else ""),
        "" if loan.at_ms is None else format_instant(loan.at_ms),
        usd(position.debt_micros),
        _olv(position.values),
        f"{_ratio(position.ltv_gross_bps)} / {_ratio(position.ltv_net_bps)}",
        f"{position.counted} of {position.pledged}",
        usd(position.lendable_micros),
        rounds,
    )


def _covenant_cells(loan: LoanRow) -> tuple[str, str]:
    covenant = loan.covenant
    if covenant is None:
        return ("no file", "")
    beside = {
        "STALE": covenant.stale,
        "DISPUTED": covenant.disputed,
        "reporting notice": covenant.notice,
    }
    marks = [covenant.level, *(mark for mark, stands in beside.items() if stands)]
    ltv = f"{_ratio(covenant.inputs.ltv_bps)} of {covenant.premise}"
    return (", ".join(marks), ltv)


def _ratio(bps: int | None) -> str:
    return "unknown" if bps is None else percent(bps)
