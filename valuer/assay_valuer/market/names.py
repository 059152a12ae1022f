"""Which product a price row is of, from the words that feeds write: all of them, or it is of none.

"NVIDIA A100 80GB PCIe", "a100-pcie-80gb" and accelerator A100 with variant "PCIe 80GB" are one
product. H100 NVL is no H100 PCIe, GH200 no H200, and RTX 6000 Ada, RTX A6000, Quadro RTX 6000 and
RTX PRO 6000 are four. A row that leaves open which of two products it is of, such as an A100 40GB
without its form, or that has a word nobody here knows, is of none: it may tell of its model, and it
stands behind no product's own price.
"""

from __future__ import annotations

import re
from functools import cache
from types import MappingProxyType
from typing import Final

from assay_valuer.market.models import SPECS, Product

_MEMORY: Final = re.compile(r"(?<![a-z0-9])(\d{1,3}) ?gb?(?![a-z0-9])")
_FORM: Final = re.compile(r"(?<![a-z0-9])(sxm ?\d?|pcie|pci e|oam|superchip)(?![a-z0-9])")
_NOTHING: Final = re.compile(
    r"(?<![a-z0-9])(nvidia|geforce|tesla|hgx|gpu|tensor core|generation|founders edition|blackwell"
    r"|hbm[23]e?|gddr[67]x?|mega|restated)(?![a-z0-9])"
)
"""Words that tell no product from another."""
_SPELLED: Final = MappingProxyType(
    {
        "a4000": "rtxa4000",
        "a4500": "rtxa4500",
        "a5000": "rtxa5000",
        "a6000": "rtxa6000",
        "6000ada": "rtx6000ada",
        "rtxpro6000se": "rtxpro6000",
        "rtxpro6000server": "rtxpro6000",
        "rtxpro6000serveredition": "rtxpro6000",
        "rtxpro6000workstationedition": "rtxpro6000workstation",
        "rtxpro6000ws": "rtxpro6000workstation",
        "rtxpro6000maxqworkstationedition": "rtxpro6000maxq",
    }
)
_MEANT: Final = MappingProxyType(
    {
        "gh200": Product("GH200 96GB", "Superchip"),
        "h20": Product("H20", "SXM5"),
    }
)
"""What a bare name means where sellers name the other product in full. Judgement. A GH200's "480 GB"
is its processor's memory."""


def product_named(accelerator: str, variant: str = "") -> Product | None:
    """The one product that these words are of; None where they fit none, or more than one."""
    fitting = candidates(accelerator, variant)
    return fitting[0] if len(fitting) == 1 else None


@cache
def candidates(accelerator: str, variant: str = "") -> tuple[Product, ...]:
    """The products of one model that these words may be of; none where there is a word too many."""
    text = re.sub(r"[^a-z0-9]+", " ", f"{accelerator} {variant}".lower()).strip()
    if re.search(r"\bmixed\b", text):
        return ()
    memory = {int(found) for found in _MEMORY.findall(text)}
    text = _MEMORY.sub(" ", text)
    forms = {found.replace(" ", "") for found in _FORM.findall(text)}
    text = _NOTHING.sub(" ", _FORM.sub(" ", text))
    model = re.sub(r"[^a-z0-9]", "", text)
    model = _SPELLED.get(model, model)
    if model == "gh200" and memory == {480}:
        memory = set()
    fitting = [
        product
        for product in _MODELS.get(model, ())
        if memory <= {SPECS[product].memory_gb} and forms <= _forms(product)
    ]
    meant = _MEANT.get(model)
    return (meant,) if meant in fitting else tuple(fitting)


def _forms(product: Product) -> frozenset[str]:
    """How its form factor may be written: SXM5 is SXM too."""
    form = product.form_factor.lower()
    return frozenset({form, form.rstrip("0123456789")})


def _by_model() -> dict[str, tuple[Product, ...]]:
    """Products by their model's name without memory, spaces or marks."""
    found: dict[str, tuple[Product, ...]] = {"h203e": (Product("H20 141GB", "SXM5"),)}
    for product in SPECS:
        bare = re.sub(r"\b\d+GB\b", "", product.model)
        key = re.sub(r"[^a-z0-9]", "", bare.lower())
        found[key] = (*found.get(key, ()), product)
    return found


_MODELS: Final = MappingProxyType(_by_model())
