"""A price row is of the product that all of its words name, or of none."""

from __future__ import annotations

import pytest

from assay_valuer.market.labels import CONSUMER, DATA_CENTRE, WORKSTATION
from assay_valuer.market.models import BY_NAME, PRODUCTS, SPECS, Product, may_be
from assay_valuer.market.names import product_named


@pytest.mark.parametrize(
    ("accelerator", "variant", "product"),
    [
        ("A100", "PCIe 80GB", "A100 80GB PCIe"),
        ("NVIDIA A100 80GB PCIe", "", "A100 80GB PCIe"),
        ("a100-pcie-80gb", "", "A100 80GB PCIe"),
        ("A100 40GB PCIe", "", "A100 40GB PCIe"),
        ("A100", "SXM 40GB", "A100 40GB SXM4"),
        ("A100-SXM4-80GB", "", "A100 80GB SXM4"),
        ("H100", "SXM", "H100 SXM5"),
        ("H100 80GB SXM", "", "H100 SXM5"),
        ("H100", "SXM-mega", "H100 SXM5"),
        ("NVIDIA H100 80GB HBM3", "SXM5", "H100 SXM5"),
        ("H100", "PCIe", "H100 PCIe"),
        ("H100", "NVL", "H100 NVL PCIe"),
        ("H100 NVL", "94GB", "H100 NVL PCIe"),
        ("H200", "", "H200 SXM5"),
        ("H200", "141GB", "H200 SXM5"),
        ("H200 NVL", "", "H200 NVL PCIe"),
        ("GH200", "", "GH200 96GB Superchip"),
        ("GH200 480GB", "", "GH200 96GB Superchip"),
        ("GH200", "144GB", "GH200 144GB Superchip"),
        ("B200", "", "B200 SXM6"),
        ("GB200", "", "GB200 Superchip"),
        ("Tesla V100", "SXM2 32GB", "V100 32GB SXM2"),
        ("Tesla T4", "", "T4 PCIe"),
        ("L40S", "48 GB", "L40S PCIe"),
        ("L40", "", "L40 PCIe"),
        ("RTX 6000 Ada", "", "RTX 6000 Ada PCIe"),
        ("NVIDIA RTX 6000 Ada Generation", "", "RTX 6000 Ada PCIe"),
        ("RTX A6000", "", "RTX A6000 PCIe"),
        ("A6000", "", "RTX A6000 PCIe"),
        ("Quadro RTX 6000", "", "Quadro RTX 6000 PCIe"),
        ("RTX PRO 6000", "SE", "RTX PRO 6000 PCIe"),
        ("RTX PRO 6000 Blackwell Workstation Edition", "", "RTX PRO 6000 Workstation PCIe"),
        ("NVIDIA GeForce RTX 3090", "", "RTX 3090 PCIe"),
        ("rtx-3090-ti", "", "RTX 3090 Ti PCIe"),
        ("RTX 3080", "", "RTX 3080 PCIe"),
        ("H20-3e", "141GB", "H20 141GB SXM5"),
        # Open, unknown, or another maker's.
        ("H100", "", None),
        ("A100", "40GB", None),
        ("V100", "16GB", None),
        ("RTX 6000", "", None),
        ("A100 PCIe (40/80 mixed)", "", None),
        ("H100 96GB PCIe", "", None),
        ("RTX 3080 12GB", "", None),
        ("RTX 4060 Ti", "", None),
        ("A10080GB", "", None),
        ("H100 SXM PCIe", "", None),
        ("H100 80GB SXM riser cable", "", None),
        ("MI300X", "", None),
        ("A16", "", None),
        ("", "", None),
    ],
)
def test_all_words_of_a_row_say_which_product_it_is_of(accelerator, variant, product):
    found = product_named(accelerator, variant)
    assert (str(found) if found else None) == product


def test_every_name_that_a_driver_gives_a_product_is_read_as_no_other():
    """A driver's own name may leave out the form, or be of two; it is never another product's."""
    for name, product in PRODUCTS.items():
        assert product_named(name) in {product, None}, name


def test_every_product_is_named_by_itself():
    for name, product in BY_NAME.items():
        assert product_named(name) == product


def test_the_table_is_one_of_gpus():
    for product, specs in SPECS.items():
        assert specs.asset_class in {DATA_CENTRE, WORKSTATION, CONSUMER}, product
        assert 8 <= specs.memory_gb <= 288
        assert 100 <= specs.bandwidth_gb_s <= 8_000
        assert 5_000 <= specs.fp16_gflops <= 2_500_000
        assert 50 <= specs.power_max_w <= 1_400
        assert bool(specs.boards) == product.form_factor.startswith("SXM"), product
    assert {p.model for p, s in SPECS.items() if s.export} == {
        "A800 80GB", "H800", "H20", "H20 141GB", "L20", "RTX 4090 D"
    }  # fmt: skip
    assert SPECS[Product("RTX 3090", "PCIe")].asset_class == CONSUMER
    assert SPECS[Product("RTX A6000", "PCIe")].asset_class == WORKSTATION
    assert SPECS[Product("GH200 96GB", "Superchip")].asset_class == DATA_CENTRE


def test_a_gpu_that_cannot_sign_signs_with_no_die():
    assert may_be("NVIDIA H20", "GH100")
    assert not may_be("NVIDIA H20", "GB100")
    assert not may_be("Tesla T4", "GH100")
