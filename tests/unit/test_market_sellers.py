"""One name for one seller, however it is written: who may not count counts under no other spelling."""

from __future__ import annotations

import pytest

from assay_valuer.market.labels import seller
from assay_valuer.market.observations import Market, Quote, Rejected, read_row


def read(provider):
    cells = {
        "date": "2026-11-01",
        "provider": provider,
        "accelerator": "H100",
        "variant": "80GB SXM5",
        "gpu_count": "1",
        "usd_per_gpu_hour": "2.00",
        "kind": "on_demand",
        "region": "",
    }
    return read_row(cells, 1, Market.RENTAL, 740_000)


@pytest.mark.parametrize(
    "name",
    [
        "lambda",
        "Lambda Labs, Inc.",
        "lambda_labs_ltd",
        "lambd\u00e1",
        "\uff2cambda",
        "https://www.lambda.ai",
    ],
)
def test_a_seller_is_one_by_its_legal_form_its_site_and_its_letters_marks(name):
    assert seller(name) == "lambda"
    assert isinstance(read(name), Quote)


def test_a_name_with_look_alike_letters_counts_for_nobody():
    row = read("l\u0430mbda")
    assert isinstance(row, Rejected)
    assert row.reason == "name"
