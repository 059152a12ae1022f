"""What a row's own words say against it: another currency or unit, or a thing that is no such GPU.

Each rule is a pure function of one row's cells and returns what is wrong, or None. A word that merely
stands in a long title proves little, so titles are believed only where they are plain: "cable for
H100" is a cable, "H100 with NVLink bridge" is a GPU.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeAlias

from assay_valuer.market.models import SPECS
from assay_valuer.market.quotes import Market, model_key

Cells: TypeAlias = Mapping[str, str]
Fault: TypeAlias = tuple[str, str]
"""The code of a reason, and the reason in words."""

BESIDE: Final = ("currency", "unit", "title", "memory_gb")
"""Columns that a feed may have beside those of its market, and that are read here."""

_DOLLARS: Final = frozenset({"", "usd", "us dollar", "us dollars", "us$", "$", "dollar", "dollars"})
_MONEY: Final = re.compile(
    r"[$€£¥₹₩₽₺₿]|\b(usdt?|eur|gbp|jpy|cny|rmb|inr|krw|chf|cad|aud|sgd|hkd|twd|pln|sek|btc|eth)\b",
    re.IGNORECASE,
)
_UNITS: Final = MappingProxyType(
    {
        Market.RENTAL: re.compile(r"(usd?)?(per)?(gpu(per)?(h|hr|hour))?"),
        Market.RESALE: re.compile(r"(usd?)?(per)?(gpu|card|each|unit|piece|item)?"),
    }
)
"""Of a unit's letters alone. GPU-hours and GPUs: what the two price columns are in."""

_ACCESSORY: Final = re.compile(
    r"\b(nvlink bridge|bridge|cables?|heat ?sink|riser|water ?block|back ?plate|bracket|shroud"
    r"|adapter|adaptor|(cooling|replacement) fan|fan only|cooler only|box only|empty box|manual"
    r"|pcb only|core only|die only|carrier board|mounting kit|sticker|decal|no gpu|without gpu)\b",
    re.IGNORECASE,
)
_FOR_IT: Final = re.compile(
    r"\b(bridge|cables?|heat ?sink|riser|water ?block|back ?plate|bracket|shroud|adapter|adaptor"
    r"|fan|cooler|kit|sticker|decal) (only|for|fits|compatible)\b"
    r"|\b(box|pcb|core|die|cooler|fan|shroud) only\b|\bempty box\b|\bno gpu\b|\bwithout gpu\b",
    re.IGNORECASE,
)
_BROKEN: Final = re.compile(
    r"\b(for[ _-]parts|parts[ _-]only|spares or repairs?|(not|non)[ _-]?working|broken|defective"
    r"|faulty|untested|dead|damaged|needs repair)\b",
    re.IGNORECASE,
)
_MOBILE: Final = re.compile(r"\b(laptop|notebook|mobile|(?<!pro \d{4} )max[ -]?q)\b", re.IGNORECASE)
"""An RTX PRO's Max-Q edition is a card all the same."""
_LOT: Final = re.compile(
    r"\b(lot of|set of|pack of|bundle of) \d+|^\d{1,3} ?[x×] ?(?=[a-z])|\b[x×] ?\d{1,3}$",
    re.IGNORECASE,
)
_SERVER: Final = re.compile(
    r"\b(mining rig|server|workstation pc|gaming pc|desktop pc)\b", re.IGNORECASE
)


def another_currency(cells: Cells, _: Market, price: str) -> Fault | None:
    """A price in anything but US dollars, by its own sign or by a column that says so."""
    said = cells.get("currency", "")
    if said.lower() not in _DOLLARS:
        return "currency", f"its currency is {said[:40]!r}: prices are in US dollars"
    if _MONEY.search(price):
        return "currency", f"{price[:40]!r} names a currency: write US dollars as a bare number"
    return None


def another_unit(cells: Cells, market: Market, _: str) -> Fault | None:
    """A price of a node, a month or a rack where one GPU's, or an hour of one, is meant."""
    said = cells.get("unit", "")
    if not said or _UNITS[market].fullmatch(re.sub(r"[^a-z]", "", said.lower())):
        return None
    what = "one GPU for an hour" if market is Market.RENTAL else "one GPU"
    return "unit", f"its unit is {said[:40]!r}: prices are of {what}"


def accessory(cells: Cells, _: Market, __: str) -> Fault | None:
    """A part that is sold for a GPU, priced as the GPU."""
    found = _ACCESSORY.search(_name(cells)) or _FOR_IT.search(cells.get("title", ""))
    return ("accessory", f"{found[0].lower()!r}: a part, and no GPU") if found else None


def broken(cells: Cells, _: Market, __: str) -> Fault | None:
    """A GPU that does not work, whose price says nothing of one that does."""
    said = " ".join((_name(cells), cells.get("title", ""), cells.get("condition", "")))
    found = _BROKEN.search(f"{said} {cells.get('price_type', '')}")
    return ("broken", f"{found[0].lower()!r}: no price of a GPU that works") if found else None


def mobile(cells: Cells, _: Market, __: str) -> Fault | None:
    """A laptop's GPU under the name of the card."""
    found = _MOBILE.search(f"{_name(cells)} {cells.get('title', '')}")
    return ("look_alike", f"{found[0].lower()!r}: a laptop's GPU, and no card") if found else None


def several(cells: Cells, market: Market, _: str) -> Fault | None:
    """Many GPUs, or a machine around them, at the price of all."""
    if market is not Market.RESALE:
        return None
    found = _LOT.search(_name(cells)) or _LOT.search(cells.get("title", ""))
    if found is None:
        found = _SERVER.search(_server_free(_name(cells)))
    return ("unit", f"{found[0].strip().lower()!r}: not the price of one GPU") if found else None


def another_memory(cells: Cells, _: Market, __: str) -> Fault | None:
    """Memory that the model never had: the row is of another model, or of several GPUs together."""
    model = model_key(cells["accelerator"])
    known = _SIZES.get(model)
    said = cells.get("memory_gb", "")
    text = f"{_name(cells)} {said} GB" if re.fullmatch(r"\d{1,4}", said) else _name(cells)
    sizes = _gigabytes(text)
    if not known or not sizes:
        return None
    count = cells.get("gpu_count", "")
    many = int(count) if re.fullmatch(r"\d{1,3}", count) else 1
    wrong = [size for size in sizes if not known & {size, size / max(many, 1)}]
    if not wrong:
        return None
    have = ", ".join(str(size) for size in sorted(known))
    return "look_alike", f"{wrong[0]} GB: a {model.upper()} has {have}"


def another_name(cells: Cells, _: Market, __: str) -> Fault | None:
    """A title or variant that names another model than the row does, such as GH200 under H200."""
    model = model_key(cells["accelerator"])
    if model not in _SIZES:
        return None
    named = _models_in(f"{cells.get('variant', '')} {cells.get('title', '')}")
    if not named or model in named:
        return None
    other = min(named)
    return "look_alike", f"it names {other.upper()} beside {model.upper()}"


RULES: Final[tuple[Callable[[Cells, Market, str], Fault | None], ...]] = (
    another_currency,
    another_unit,
    accessory,
    broken,
    mobile,
    several,
    another_memory,
    another_name,
)
"""The first that finds something names the reason. None of them looks at another row."""


def _name(cells: Cells) -> str:
    return f"{cells['accelerator']} {cells.get('variant', '')}".strip()


def _server_free(name: str) -> str:
    """A name without the makers' own lines that are called after servers and workstations."""
    return re.sub(r"server edition|workstation edition", "", name, flags=re.IGNORECASE)


@lru_cache(maxsize=16_384)
def _gigabytes(text: str) -> tuple[int, ...]:
    return tuple(
        int(one) for one in re.findall(r"(?<![a-z\d.])(\d{1,4}) ?GI?B\b", text, re.IGNORECASE)
    )


@lru_cache(maxsize=16_384)
def _models_in(text: str) -> frozenset[str]:
    """Which models of data centres a text names."""
    words = re.findall(r"(?<![a-z])[a-z]+ ?\d+[a-z]*", text.lower())
    bare = {re.sub(r"(nvl|sxm\d?|pcie)$", "", word.replace(" ", "")) for word in words}
    return frozenset(bare & _NAMED)


def _sizes() -> dict[str, frozenset[int]]:
    """The memory, in GB, that each model came with, as makers, drivers and sellers write it."""
    found: dict[str, set[int]] = defaultdict(set)
    for product, specs in SPECS.items():
        found[model_key(product.model)].add(specs.memory_gb)
    for model, more in _WRITTEN.items():
        found[model] |= more
    return {model: frozenset(sizes) for model, sizes in found.items()}


_WRITTEN: Final = MappingProxyType(
    {
        "h100": {94, 96},
        "h200": {143, 144},
        "gh200": {96, 144, 480, 576, 624},
        "b200": {180, 183, 186, 192},
        "b300": {270, 275, 279, 288},
        "gb200": {186, 192, 372, 384, 864},
        "gb300": {279, 288, 558, 576},
        "t4": {15},
        "k80": {12, 24},
        "a16": {16, 64},
        "p100": {12},
        "l4": {23},
        "rtx3080": {12},
        "rtx3060": {8, 12},
        "rtx4060ti": {8, 16},
        "mi300x": {192},
        "mi325x": {256},
    }
)
"""Beside data sheets: what drivers report, early products, and superchips with their CPU's memory."""
_SIZES: Final = MappingProxyType(_sizes())
_NAMED: Final = frozenset(
    one for one in _SIZES if re.fullmatch(r"(gh|gb|[abhv])\d{3}[a-z]*|l40s?", one)
)
"""Shorter names are also those of clouds' machines: a2-highgpu has A100s."""
