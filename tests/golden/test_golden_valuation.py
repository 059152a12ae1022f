"""The golden case is worth what an implementation that shares no code with the product says."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

from assay_valuer.valuation.case import from_json, to_json
from assay_valuer.valuation.value import value_case
from tests.golden import make_valuation

TEXT = (Path(__file__).parent / make_valuation.FILE).read_text(encoding="utf-8")
GOLDEN = json.loads(TEXT)
NEAR = Decimal("0.0002")
"""The factor of a lot is in whole basis points: it may be one of them off."""


def test_the_case_is_worth_what_was_worked_out_apart():
    valued = value_case(from_json(json.dumps(GOLDEN["case"])))
    assert valued.values is not None
    assert valued.lending is not None
    found = {
        f"{premise}_{name}": getattr(getattr(valued.values, premise), name)
        for premise in ("fmv", "olv", "nolv", "flv")
        for name in ("low", "mid", "high")
    } | {"lending": valued.lending}
    assert found.keys() == GOLDEN["usd"].keys()
    for name, amount in found.items():
        said = Decimal(GOLDEN["usd"][name])
        near = Decimal("0.00003") if name.startswith("fmv") else NEAR
        assert abs(Decimal(amount.micros) / 10**6 - said) <= said * near, name
    said_by = [found.approach for found in valued.indications]
    assert said_by == ["market", "table", "income", "cost", "appraisal"]


def test_the_file_says_what_its_maker_works_out_and_the_case_has_one_form():
    """A policy's default may change: the file keeps the policy that it was made by."""
    assert make_valuation.worth(GOLDEN["case"]) == GOLDEN["usd"]
    text = to_json(from_json(json.dumps(GOLDEN["case"])))
    assert to_json(from_json(text)) == text
    assert text.decode() == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
