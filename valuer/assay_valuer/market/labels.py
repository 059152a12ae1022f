"""What a price row's words stand for: class of asset, memory, form factor, who sells and how.

Feeds write names freely, and a file may hold any that nobody has seen. A rule here reads the words
and always has an answer, `other` where nothing fits: a wrong group makes an interval wider or
narrower than it should be, which the backtest sees; it never makes a price.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from types import MappingProxyType
from typing import Final

DATA_CENTRE: Final = "data_centre"
WORKSTATION: Final = "workstation"
CONSUMER: Final = "consumer"
OTHER: Final = "other"

_CLASSES: Final = (
    (
        WORKSTATION,
        r"(nvidia )?(rtx|quadro) ?(a\d{3,4}|pro\b)|(nvidia )?(quadro|rtx \d{4} ada|titan)|(amd )?radeon pro",
    ),
    (
        CONSUMER,
        r"(nvidia )?(geforce )?(rtx|gtx|gt) ?\d{3,4}|(amd )?(radeon )?rx ?\d{3,4}|(intel )?arc\b",
    ),
    (
        DATA_CENTRE,
        r"(nvidia |tesla |amd |instinct |intel )*(gh|gb|mi|[akplthvbr]) ?\d{1,4}|gaudi|dgx|hgx",
    ),
)
"""First that matches the start of the accelerator's name, in any case."""

HYPERSCALERS: Final = frozenset(
    {"aws", "amazon", "gcp", "google", "azure", "microsoft", "oracle", "oci", "ibm", "alibaba"}
)
"""Judgement: clouds that sell GPUs beside everything else, at list prices far above the rest."""
MARKETPLACES: Final = frozenset(
    {"vast", "runpod", "tensordock", "thunder", "cudo", "sesterce", "salad", "prime", "hyperbolic",
     "akash", "akashnetwork", "ionet", "clore", "nosana", "spheron", "shadeform"}
)  # fmt: skip
"""Judgement: those that sell what others host, at prices that follow demand."""
PLATFORMS: Final = frozenset(
    {"paperspace", "replicate", "fly", "koyeb", "cerebrium", "beam", "modal", "baseten", "huggingface",
     "lightning", "saturn", "anyscale", "northflank"}
)  # fmt: skip
"""Judgement: those that sell software to run models by the second, and the GPU with it."""
_TIERS: Final = (
    ("hyperscaler", HYPERSCALERS),
    ("marketplace", MARKETPLACES),
    ("platform", PLATFORMS),
)
_RENAMED: Final = MappingProxyType({"datacrunch": "verda"})
_SITE: Final = re.compile(r"^\s*(https?://)?(www\.)?")
_FORM: Final = re.compile(r"([\s,._-]+(inc|llc|ltd|limited|corp|gmbh|ag|sa|sas|bv|plc))+\W*$")
"""What stands before a seller's name where it is an address, and after it for its legal form."""
_TRADE: Final = re.compile(r"(labs|cloud|compute|io|sh|ai|com)$")


def asset_class(accelerator: str) -> str:
    """data_centre, workstation, consumer or other, by how the makers name their lines."""
    name = re.sub(r"[-_\s]+", " ", accelerator).strip().lower()
    for which, pattern in _CLASSES:
        if re.match(pattern, name):
            return which
    return OTHER


def latin(text: str) -> str:
    """The text with its letters' marks and widths left out: é is e, and a wide L is an L."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(one for one in parts if not unicodedata.combining(one))


@cache
def seller(provider: str) -> str:
    """One name for one seller: `lambda`, `lambda_labs` and `lambdalabs` are not three sources."""
    words = _FORM.sub("", _SITE.sub("", latin(provider).lower()))
    name = re.sub(r"[^a-z0-9]", "", words)
    short = _TRADE.sub("", name)
    short = short if len(short) >= 3 else name
    return _RENAMED.get(short, short) or "unnamed"


def tier(provider: str) -> str:
    """hyperscaler, marketplace, platform, or neocloud: what an unknown seller is taken for too."""
    name = seller(provider)
    for which, sellers in _TIERS:
        if name in sellers:
            return which
    return "neocloud"


def memory(variant: str) -> str:
    """The memory that a variant names, such as 80; empty where it names none."""
    found = re.search(r"(\d+) ?GB", variant, re.IGNORECASE)
    return found[1] if found else ""


def form_factor(variant: str) -> str:
    """SXM, PCIe or NVL; empty where the variant names none."""
    found = re.search(r"SXM|PCIE|NVL|OAM", variant, re.IGNORECASE)
    return found[0].upper() if found else ""


def rental_feed(kind: str) -> str:
    """How a rental price comes about: list, spot or committed; else the kind's own name."""
    name = kind.strip().lower()
    if name.startswith(("on_demand", "ondemand", "on-demand")):
        return "list"
    if name.startswith(("reserved", "commit")):
        return "committed"
    if name.startswith(("spot", "preempt", "interruptible", "bid", "auction")):
        return "spot"
    return name or OTHER


def resale_feed(price_type: str) -> str:
    """sold where the row is of realised sales, else asking."""
    return "sold" if is_sale(price_type) else "asking"


def is_sale(price_type: str) -> bool:
    """Whether somebody paid the price."""
    return price_type.strip().lower().startswith(("sold", "sale", "realised", "realized"))
