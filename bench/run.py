"""Measures the budgets of the design and writes build/bench.json.

    bench/run.py                                     all of them
    bench/run.py --only ledger_kb_per_gpu_day        one
    bench/run.py --only ingest_cpu_ratio gas_single --json

Exit codes: 0 every measurement was made, whether its target was met or MISSED; 1 one could not be
made; 2 usage.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
# A program in a folder finds its neighbours; this one uses the package `bench`, and tests.fakes.
sys.path[0] = str(ROOT)
# As the valuer's command has it: numpy's threads wait for each other longer than the sums take.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from rich.box import SIMPLE  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.status import Status  # noqa: E402
from rich.table import Table  # noqa: E402

from bench import (  # noqa: E402
    agent,
    agent_ticks,
    backtest,
    evidence,
    false_alarms,
    ingest,
    ledger,
    market,
    oracle,
    report_latency,
    valuation,
)
from bench.row import Context, Measurement, Row  # noqa: E402

RESULT: Final = ROOT / "build" / "bench.json"
MEASUREMENTS: Final[tuple[Measurement, ...]] = (
    ingest.CPU,
    ingest.RSS,
    ledger.SIZE,
    agent.COST,
    agent_ticks.TICK,
    agent_ticks.GROWTH,
    agent_ticks.EVENT,
    valuation.PER_GPU,
    market.FIT,
    backtest.FULL,
    evidence.COST,
    false_alarms.FALSE_ALARMS,
    report_latency.LATENCY,
    oracle.GAS,
)
WIDTH: Final = 110
"""Columns where the output is no terminal."""
NOT_YET: Final = "gas_batch20, gas_root"
"""Budgets of what this version has not got."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what was asked for; returns the exit code."""
    options = _options(arguments)
    chosen = [one for one in MEASUREMENTS if not options.only or set(one.names) & set(options.only)]
    screen = Console(stderr=True)
    rows: list[Row] = []
    failures: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="assay-bench-"))
    for number, measurement in enumerate(chosen, 1):
        head = f"[{number}/{len(chosen)}]"
        place = folder / measurement.names[0]
        place.mkdir()
        try:
            rows += _measure(measurement, head, place, screen)
        except Exception as error:  # noqa: BLE001 - whatever broke it, the others are still made
            failures.append(f"{', '.join(measurement.names)}: {error} (logs: {place})")
            screen.print(f"{head} FAILED {failures[-1]}", style="bold red", markup=False)
    if not failures:
        shutil.rmtree(folder)
    if options.only:
        rows = [row for row in rows if row.name in options.only]
    text = json.dumps([_json(row) for row in rows], indent=1)
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text + "\n")
    if options.json:
        print(text)
    else:
        _show(rows, failures, output)
    return 1 if failures else 0


def _measure(measurement: Measurement, head: str, place: Path, screen: Console) -> Sequence[Row]:
    """One measurement, with a line that says how it goes and one that stays."""
    began_s = time.monotonic()
    live = Status(f"{head} {measurement.about}", console=screen) if screen.is_terminal else None

    def say(what: str) -> None:
        if live is not None:
            live.update(f"{head} {what} ({time.monotonic() - began_s:.0f} s)")

    with live or nullcontext():
        rows = measurement.run(Context(place, say))
    told = ", ".join(f"{row.name} {'met' if row.met else 'MISSED'}" for row in rows)
    took_s = time.monotonic() - began_s
    screen.print(f"{head} {told} ({took_s:.0f} s)", markup=False, highlight=False)
    return rows


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [name for one in MEASUREMENTS for name in one.names]
    parser = argparse.ArgumentParser(
        prog="bench/run.py",
        description="Measures the design's budgets, each beside what bounds it in the same run.",
        epilog="example: bench/run.py --only ledger_kb_per_gpu_day gas_single --json\n\n"
        + "\n".join(f"  {', '.join(one.names)}\n      {one.about}" for one in MEASUREMENTS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help="only these")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--output", default=str(RESULT), metavar="FILE", help="where the JSON goes (%(default)s)"
    )
    return parser.parse_args(arguments)


def _json(row: Row) -> dict[str, str | float | bool | None]:
    return {
        "name": row.name,
        "value": round(row.value, 4),
        "unit": row.unit,
        "bound": None if row.bound is None else round(row.bound, 4),
        "ratio": round(row.ratio, 4),
        "target": row.target,
        "met": row.met,
    }


def _show(rows: Sequence[Row], failures: Sequence[str], output: Path) -> None:
    wide = None if sys.stdout.isatty() else WIDTH
    console = Console(width=wide)
    table = Table(box=SIMPLE)
    for title in ("name", "value", "bound", "ratio", "target", ""):
        right = title in ("value", "bound", "ratio")
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        sign = "≥" if row.better == "higher" else "≤"
        of = "" if row.judged == "ratio" else f" {row.unit.partition('/')[0]}"
        table.add_row(
            row.name,
            f"{_figure(row.value)} {row.unit}",
            "none" if row.bound is None else _figure(row.bound),
            _figure(row.ratio),
            f"{sign} {row.target:,g}{of}",
            "[green]met[/]" if row.met else "[bold red]MISSED[/]",
        )
    console.print(table)
    for row in rows:
        beside = row.bound_is + (f". {row.note}" if row.note else "")
        console.print(f"{row.name}: {beside}", markup=False, highlight=False)
    for failure in failures:
        console.print(f"FAILED {failure}", style="bold red", markup=False)
    missed = [row.name for row in rows if not row.met]
    console.print(
        f"{len(rows) - len(missed)} of {len(rows)} targets met"
        + (f"; MISSED: {', '.join(missed)}" if missed else "")
        + f". Written to {output}. Not there yet, and so not measured: {NOT_YET}.",
        highlight=False,
    )


def _figure(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
