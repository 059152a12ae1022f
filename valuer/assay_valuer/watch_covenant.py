"""Where loans stand by their covenants, as Prometheus sees it: only these series reach CALL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import Metric

from assay_core.units import BPS
from assay_valuer.book import Book
from assay_valuer.watch_labels import family, flag

_LOAN: Final = ("loan", "simulated")


def covenant_metrics(book: Book) -> Iterator[Metric]:
    """Level, LTV and what stands beside it of each loan that has a covenant file in force."""
    state = family(
        "loan_covenant_state", "State by the covenant; 1 for what holds.", *_LOAN, "state"
    )
    ltv = family("loan_covenant_ltv_ratio", "LTV by the covenant's premise.", *_LOAN, "premise")
    mark = family("loan_covenant_mark", "What stands beside that state.", *_LOAN, "mark")
    for loan_id, position in book.covenants.items():
        labels = [loan_id, flag(book.positions[loan_id].simulated)]
        one = position.state
        state.add_metric([*labels, one.level.value], 1)
        if position.inputs.ltv_bps is not None:
            ltv.add_metric(
                [*labels, position.covenant.premise.value], position.inputs.ltv_bps / BPS
            )
        marks = {"stale": one.stale, "disputed": one.disputed, "reporting_notice": one.notice}
        for name, stands in marks.items():
            mark.add_metric([*labels, name], stands)
    yield from (state, ltv, mark)
