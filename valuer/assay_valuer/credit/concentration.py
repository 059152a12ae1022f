"""How much of the loan book hangs on one generation, one site or one offtaker, and lots that a market
could not take. Pure, advisory: no value and no state moves by it, and what is not known is not said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from assay_core.units import BPS, ratio_bps_down
from assay_valuer.findings import Finding
from assay_valuer.policy import Concentration

_GENERATIONS: Final = MappingProxyType(
    {"P4": "Pascal", "P40": "Pascal", "P100": "Pascal", "V100": "Volta", "V100S": "Volta"}
    | dict.fromkeys(("T4", "Quadro"), "Turing")
    | dict.fromkeys(("A2", "A10", "A10G", "A16", "A30", "A40", "A100", "A800"), "Ampere")
    | dict.fromkeys(("L4", "L20", "L40", "L40S"), "Ada")
    | dict.fromkeys(("H100", "H800", "H20", "H200", "GH200"), "Hopper")
    | dict.fromkeys(("B200", "B300", "GB200", "GB300"), "Blackwell")
)
"""By the first word of a model's name, as its maker's architecture is called."""


@dataclass(frozen=True, slots=True)
class Holding:
    """GPUs of one loan that are alike here: what they are worth together (OLV), and how many."""

    olv_micros: int
    count: int
    product: str | None
    site: str | None
    offtaker: str | None


_Of: TypeAlias = Callable[[Holding], str | None]


def generation_of(product: str) -> str:
    """The generation of a product by its name; a product of no known one is a generation of its own."""
    model = product.partition(" ")[0]
    if product.startswith("RTX PRO"):
        return "Blackwell"
    if product.startswith("RTX") and " Ada" in product:
        return "Ada"
    return _GENERATIONS.get(model, product)


def concentrations(
    book: Mapping[str, Sequence[Holding]],
    policy: Concentration,
    monthly_sales: Mapping[str, int],
) -> dict[str, tuple[Finding, ...]]:
    """What each loan is told: of shares above their limit that it has a part in, and of its own lots.

    `book` has what counts, by loan; `monthly_sales` the sales a month of products whose market shows
    them.
    """
    held = [one for some in book.values() for one in some]
    whole = sum(one.olv_micros for one in held)
    limits = (
        ("model", policy.model_bps, _generation),
        ("site", policy.site_bps, _site),
        ("offtaker", policy.offtaker_bps, _offtaker),
    )
    found: dict[str, list[Finding]] = {name: [] for name in book}
    for what, limit_bps, of in limits:
        for name, micros in sorted(_sums(held, of).items()):
            share_bps = ratio_bps_down(micros, max(whole, 1))
            if share_bps <= limit_bps:
                continue
            detail = (
                f"{name} is {_percent(share_bps)} of what the book has pledged, above "
                f"{_percent(limit_bps)}, a judgement."
            )
            finding = Finding(f"concentration.{what}", detail, share_bps)
            for loan, some in book.items():
                if any(of(one) == name for one in some):
                    found[loan].append(finding)
    for loan, some in book.items():
        found[loan] += _lots(some, policy, monthly_sales)
    return {loan: tuple(findings) for loan, findings in found.items()}


def _lots(
    some: Sequence[Holding], policy: Concentration, monthly_sales: Mapping[str, int]
) -> Iterable[Finding]:
    counts: defaultdict[str, int] = defaultdict(int)
    for one in some:
        if one.product is not None:
            counts[one.product] += one.count
    for product, count in sorted(counts.items()):
        sales = monthly_sales.get(product)
        if sales is None or count * BPS <= policy.lot_of_sales_bps * sales:
            continue
        detail = (
            f"{count} {product} are more than {_percent(policy.lot_of_sales_bps)} of the {sales} that "
            "its market is seen to sell in a month, a judgement."
        )
        yield Finding("concentration.lot", detail)


def _sums(held: Iterable[Holding], of: _Of) -> dict[str, int]:
    sums: defaultdict[str, int] = defaultdict(int)
    for one in held:
        name = of(one)
        if name is not None:
            sums[name] += one.olv_micros
    return sums


def _generation(one: Holding) -> str | None:
    return None if one.product is None else generation_of(one.product)


def _site(one: Holding) -> str | None:
    return one.site


def _offtaker(one: Holding) -> str | None:
    return one.offtaker


def _percent(bps: int) -> str:
    return f"{bps // 100}.{bps % 100:02d}%"
