"""What `run` does besides serving the door: the tasks that follow the ledger."""

from __future__ import annotations

from typing import Final

from assay_valuer.api import serve_api
from assay_valuer.desk import keep_the_book
from assay_valuer.loan_states import read_loan_states
from assay_valuer.market_task import follow_the_market
from assay_valuer.ocsp import ask_about_revocations
from assay_valuer.service import Task

TASKS: Final[tuple[Task, ...]] = (
    keep_the_book,
    follow_the_market,
    ask_about_revocations,
    read_loan_states,
    serve_api,
)
