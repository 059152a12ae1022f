"""What was fitted to a market snapshot, as whole numbers: a value is worked out from these alone.

Statistics work in floats and may differ in the last digit from one machine to the next. Their
results are rounded once, here, kept, and named by the SHA-256 of their canonical JSON; a valuation
and its replay read the same integers. Logarithms are natural, of US dollars, in micro-nats (e6); days
are ordinals (0001-01-01 is 1), as `datetime.date.toordinal` gives them.

What one seller can do. Take two snapshots that differ in one seller's rows, in whatever way, and the
fits that follow the same previous fit. Then (forecast/steps.py, held by property tests):

- every level that the previous fit had differs by at most 1.4% (14,000 e6);
- every error, daily volatility and shortfall by at most 2% of itself, and by 0.008;
- every outlook's quantile, drift, committed ratio and ask-to-sold ratio by at most 0.002 (2,000 e6);
- `basis`, `sellers`, which levels are in use, and which products are equivalents do not differ: the
  previous fit has decided them. They may for a product that it had not; a kind of level that it had not
  is not in use. A ratio, drift, deviation or shortfall that it had not begins at what the policy as it
  comes has in its place, and goes on from there by these steps.
- `quotes`, `newest_day` and `references` differ freely: they inform, and no number may hang on them.

Levels are of their product's `day`, and their errors hold all that is not known on it, the age of
rows too: what ages a value is the time since `day` alone. Where feeds are silent the fits go on.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

import msgspec

FORMAT: Final = 1
"""Of the parameters; another one is not read."""
HORIZONS_DAYS: Final = (30, 90, 180)

Log = Annotated[int, msgspec.Meta(ge=-60_000_000, le=60_000_000)]
Error = Annotated[int, msgspec.Meta(ge=0, le=60_000_000)]
Count = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
Day = Annotated[int, msgspec.Meta(ge=1, le=3_652_059)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How everything here is read: strictly."""


class Reference(_Struct, frozen=True, kw_only=True):
    """Up to where one seller's own price has moved the level: it moves it by what is beyond alone."""

    seller: Name
    log_e6: Log


class Level(_Struct, frozen=True, kw_only=True):
    """What something costs, and how well that is known."""

    log_e6: Log
    error_e6: Error
    """Standard error of the level on its product's `day`."""
    sellers: Count
    """Independent sellers of this very product (of hardware: markets) whose prices stand behind it;
    0 where nobody quotes it and it is estimated from others of its class."""
    quotes: Count
    newest_day: Day
    """Of the rows behind it."""
    basis: Annotated[str, msgspec.Meta(pattern=r"^(quotes|hedonic)$")]
    """`hedonic`: estimated from its specifications and its class, or drawn towards that, since fewer
    than three sellers (of hardware: no market) quote it."""
    in_use: bool = True
    """False where an earlier fit had no such level and fewer than three sellers have shown one since:
    no value rests on it."""
    references: tuple[Reference, ...] = ()
    """By seller, ascending."""


class Outlook(_Struct, frozen=True, kw_only=True):
    """Quantiles of the log change over a horizon."""

    horizon_days: Annotated[int, msgspec.Meta(ge=1, le=3_660)]
    q025_e6: Log
    q10_e6: Log
    q50_e6: Log
    q90_e6: Log
    q975_e6: Log


class Equivalent(_Struct, frozen=True, kw_only=True):
    """A product that would do the same work, new, and its performance ÷ that of what is valued."""

    product: Name
    new_ask: Level
    performance_log_e6: Log


class ProductParameters(_Struct, frozen=True, kw_only=True):
    """Everything fitted that the value of one product rests on. None is unknown."""

    product: Name
    asset_class: Name
    day: Day
    """That its levels are of: when they were fitted."""
    rental: Level | None = None
    """US dollars per GPU-hour, on demand, of a neutral seller that is no hyperscaler."""
    committed_1y_log_e6: Log | None = None
    """ln of committed ÷ on demand, for one year and for three."""
    committed_3y_log_e6: Log | None = None
    new_ask: Level | None = None
    used_ask: Level | None = None
    sold: Level | None = None
    equivalents: tuple[Equivalent, ...] = ()
    rental_outlook: tuple[Outlook, ...] = ()
    hardware_outlook: tuple[Outlook, ...] = ()
    """By horizon, ascending."""
    rental_outlook_aim: tuple[Outlook, ...] = ()
    hardware_outlook_aim: tuple[Outlook, ...] = ()
    """What the month's first fit found: outlooks go there by a step a day. For the next fit alone: no
    value rests on them."""
    drift_log_e6: Log | None = None
    """Of the hardware's price, a year."""
    daily_volatility_e6: Error | None = None
    """Deviation of the hardware's daily log change, in its present regime with the stress floor."""
    shortfall_log_e6: Error | None = None
    """Expected shortfall at 97.5% of the hardware's log change over 120 days, as a loss, beyond its
    median."""
    monthly_sales: Count | None = None
    """Sales a month that were observed in its market; None where no market shows them."""


class ClassParameters(_Struct, frozen=True, kw_only=True):
    """What was learned of a class of assets as a whole."""

    asset_class: Name
    sales: Count
    """The most realised sales that a fit has seen. What is validated has an error below, and whether
    it has one the previous fit has decided, at 30 sales."""
    ask_to_sold_log_e6: Log | None = None
    """ln of sold ÷ asking price in the same month; None where no pair was seen."""
    market_error_e6: Error | None = None
    """Root mean square of the backtested log error of each approach; None where untested."""
    income_error_e6: Error | None = None
    cost_error_e6: Error | None = None


class Parameters(_Struct, frozen=True, kw_only=True):
    """One fit: of which snapshot, after which fit, by which code."""

    format: Annotated[int, msgspec.Meta(ge=FORMAT, le=FORMAT)] = FORMAT
    made_day: Day
    snapshot_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    previous_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")] | None
    code: Name
    """Name and version of the method that fitted them."""
    products: tuple[ProductParameters, ...]
    """By name, ascending."""
    classes: tuple[ClassParameters, ...]

    @property
    def sha256(self) -> str:
        """Their name: SHA-256 of their canonical JSON, hex."""
        return hashlib.sha256(to_json(self)).hexdigest()

    def of(self, product: str) -> ProductParameters | None:
        """A product's, by its name."""
        return next((one for one in self.products if one.product == product), None)

    def of_class(self, asset_class: str) -> ClassParameters | None:
        """A class's, by its name."""
        return next((one for one in self.classes if one.asset_class == asset_class), None)


def to_json(parameters: Parameters) -> bytes:
    """Canonical JSON: sorted keys, no spaces."""
    return msgspec.json.encode(parameters, order="sorted")


def from_json(text: bytes | str) -> Parameters:
    """What `to_json` wrote. Raises msgspec.ValidationError."""
    return msgspec.json.decode(text, type=Parameters)
