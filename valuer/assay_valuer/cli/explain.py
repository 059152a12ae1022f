"""`assay-valuer explain GPU`: its value from price rows to what is lent, and how far it is trusted."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import msgspec
from sqlalchemy import Connection

from assay_core.errors import AssayError
from assay_core.printable import printable
from assay_valuer.asset_rows import asset_rows
from assay_valuer.cli import trust
from assay_valuer.cli.common import (
    FALSE,
    OK,
    Commands,
    add_command,
    now_ms,
    opened,
    print_json,
    print_sentences,
    print_table,
    say,
    write_file,
)
from assay_valuer.credit.position import percent
from assay_valuer.explain_rows import case_file, value_explained
from assay_valuer.explain_value import LevelSaid, ValueExplained
from assay_valuer.policy import ValuerPolicy
from assay_valuer.results import StoredFinding, StoredIndication, StoredRange
from assay_valuer.rows import GpuRow, gpu_rows, usd


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU: its value, where it has one that rests on a case, and trust in it."""

    gpu: str
    value: ValueExplained | None
    trust: trust.Explained


def add_parser(commands: Commands) -> None:
    """Registers the command."""
    parser = add_command(
        commands,
        "explain",
        "explain one GPU: its value from price rows to what is lent, and how far it is trusted",
        "assay-valuer explain 1652222012345 --export case.json",
    )
    parser.add_argument("gpu", help="its serial, or its name in `gpu list`")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="write all that its value rests on to this new file, for `replay --file`",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """One GPU, whole; 1 where there is none of this name, or it has no value to explain."""
    wanted: str = args.gpu
    export: Path | None = args.export
    now = now_ms()
    with opened(args) as state:
        rows = state.database.read(gpu_rows)
        found = [gpu for gpu in rows if wanted in (gpu.serial, f"asset-{gpu.id}", gpu.uuid)]
        if not found:
            say(f"there is no GPU {printable(wanted, 64)}; see `assay-valuer gpu list`")
            return FALSE
        policy, key = state.config.policy, state.ledger_key.public_key
        if export is not None:
            gpu = _only(found)
            file = state.database.read(lambda c: case_file(c, gpu, policy, key))
            write_file(export, msgspec.json.format(msgspec.json.encode(file)).decode() + "\n")
            say(f"wrote {export}; work it out again with: assay-valuer replay --file {export}")
        told = state.database.read(lambda c: _told(c, found, policy, now))
    if args.json:
        print_json({"gpus": told})
    else:
        for one in told:
            _print(one)
    return OK if all(one.value is not None for one in told) else FALSE


def _only(found: list[GpuRow]) -> GpuRow:
    if len(found) > 1:
        names = ", ".join(f"asset-{gpu.id}" for gpu in found)
        raise AssayError(f"several GPUs have this name; export one of {names}")
    return found[0]


def _told(
    connection: Connection, gpus: list[GpuRow], policy: ValuerPolicy, now: int
) -> list[Explained]:
    assets = {row.id: row for row in asset_rows(connection)}
    trusts = trust.explained(connection, [assets[gpu.id] for gpu in gpus], policy, now)
    return [
        Explained(
            gpu=gpu.serial or f"asset-{gpu.id}",
            value=value_explained(connection, gpu),
            trust=one,
        )
        for gpu, one in zip(gpus, trusts, strict=True)
    ]


def _print(one: Explained) -> None:
    if one.value is None:
        say(f"{one.gpu} has no value that can be explained: see `assay-valuer gpu show {one.gpu}`")
    else:
        _print_value(one.value)
    trust.print_trust(one.trust)


def _print_value(one: ValueExplained) -> None:
    print_table(("", one.gpu), _subject(one), prose=one.gpu)
    if one.table:
        rows = [
            (
                row.condition,
                f"{usd(row.low_micros)} / {usd(row.mid_micros)} / {usd(row.high_micros)}",
                date.fromordinal(row.day).isoformat(),
                row.source,
            )
            for row in one.table
        ]
        print_table(("price table", "low / mid / high", "of", "source"), rows, prose="source")
    if one.levels:
        print_table(_LEVELS, [_level(level) for level in one.levels], prose="sellers' references")
        _print_rows(one)
    if one.ratios:
        print_table(("fitted", "ratio"), [(ratio.what, percent(ratio.bps)) for ratio in one.ratios])
    if one.rejected:
        told = [f"{count} × {reason}" for reason, count in one.rejected.items()]
        print_sentences("rows of this product that do not count:", [", ".join(told)])
    if one.indications:
        print_table(_APPROACHES, [_approach(each) for each in one.indications], prose="why")
    print_table(_FACTORS, [_factor(each) for each in one.findings], prose="in words")
    _print_values(one)
    print_table(
        ("rests on", "SHA-256", "ledger"),
        [
            (each.what, each.sha256, "" if each.position is None else str(each.position))
            for each in one.hashes
        ],
    )


def _print_rows(one: ValueExplained) -> None:
    """How to come from levels to their rows: a reference is a mean of several, so none is named."""
    snapshot = next((each.sha256 for each in one.hashes if each.what == "snapshot"), None)
    if snapshot is not None:
        print_sentences(
            "every seller's rows behind these levels, one a line, and the proof of one of them:",
            [
                f"assay-valuer market export --out rows.jsonl --snapshot {snapshot}",
                f"assay-valuer market prove --line LINE --snapshot {snapshot}",
            ],
        )


def _subject(one: ValueExplained) -> list[tuple[str, str]]:
    subject, contract = one.subject, one.subject.contract
    facts = {
        "product": one.product or subject.name or "not read yet",
        "loan": one.loan or "none",
        "counts": "yes" if one.counts else "no: see below why",
        "of the day": f"{one.day}, by the method {one.method}",
        "health": "degraded" if subject.degraded else "nothing that lowers a value",
        "lot": f"{subject.lot} of its product in its loan",
        "baseboard": subject.board.value,
        "warranty": "none known"
        if subject.warranty_until is None
        else f"until {date.fromordinal(subject.warranty_until).isoformat()}",
        "contract": "none known"
        if contract is None
        else f"{usd(contract.micros_per_hour)} an hour from {contract.counterparty} until "
        f"{date.fromordinal(contract.until).isoformat()}",
    }
    facts |= {
        f"appraisal by {each.appraiser}": f"{usd(each.micros)} ({each.premise.value}) as of "
        f"{date.fromordinal(each.day).isoformat()}"
        for each in one.appraisals
    }
    if one.override is not None:
        facts["override"] = (
            f"{usd(one.override.micros)} by {' and '.join(one.override.signed_by)} until "
            f"{date.fromordinal(one.override.until).isoformat()}: {one.override.reason}"
        )
    return list(facts.items())


def _print_values(one: ValueExplained) -> None:
    values = one.values
    if values is not None:
        rows = [
            (name, _amounts(amounts))
            for name, amounts in (
                ("FMV", values.fmv),
                ("OLV", values.olv),
                ("NOLV", values.nolv),
                ("FLV", values.flv),
            )
        ]
        print_table(("value", "low / mid / high"), rows)
    lending = "unknown" if one.lending_micros is None else usd(one.lending_micros)
    print_sentences(
        f"lent on before assurance, for one such GPU: {lending}", _sentences(one.standing)
    )
    if one.position:
        print_sentences(f"taken off in its loan, {one.loan}:", _sentences(one.position))


def _sentences(findings: Iterable[StoredFinding]) -> list[str]:
    return [each.detail for each in findings]


_LEVELS = (
    "price",
    "level",
    "± one error",
    "sellers",
    "rows",
    "newest",
    "by",
    "sellers' references",
)
_APPROACHES = ("approach", "FMV low / mid / high", "error", "weight", "why")
_FACTORS = ("finding", "factor", "in words")


def _level(level: LevelSaid) -> tuple[str, ...]:
    return (
        level.what,
        usd(level.micros),
        percent(level.error_bps),
        str(level.sellers),
        str(level.quotes),
        level.newest_day,
        level.basis,
        ", ".join(f"{each.seller} {usd(each.micros)}" for each in level.references),
    )


def _approach(one: StoredIndication) -> tuple[str, ...]:
    return (
        one.approach,
        _amounts(one.range),
        f"{one.error_e6 // 10_000}.{one.error_e6 // 100 % 100:02d}% (log)",
        percent(one.weight_bps),
        "\n".join(
            each.detail
            if each.effect_bps is None
            else f"× {percent(each.effect_bps)}: {each.detail}"
            for each in one.findings
        ),
    )


def _factor(one: StoredFinding) -> tuple[str, ...]:
    factor = "" if one.effect_bps is None else f"× {percent(one.effect_bps)}"
    return one.code, factor, one.detail


def _amounts(amounts: StoredRange) -> str:
    return f"{usd(amounts.low_micros)} / {usd(amounts.mid_micros)} / {usd(amounts.high_micros)}"
