"""The valuer's policy: every number that valuing, crediting and publishing rest on, in one file.

Each number says whether it is *evidence* (a source measured or published it) or *judgement*.
A policy is named by the hash of its contents wherever it has been used.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

import msgspec

from assay_core.health import HealthPolicy
from assay_core.instants import SECOND_MS

Bps = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
Seconds = Annotated[int, msgspec.Meta(ge=1, le=366 * 86_400)]


class Silence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long what has fallen silent still counts. Judgement."""

    quiet_after_s: Seconds = 900
    """A host that has said nothing for this long is silent. The longest window is 15 minutes."""
    host_grace_s: Seconds = 6 * 3600
    """A silent host's or site's GPUs count this long after they were last seen."""
    gpu_grace_s: Seconds = 900
    """A GPU that is silent while its host speaks counts this long."""
    maintenance_max_s: Seconds = 86_400
    """Announced maintenance lets a GPU count at most this long after it was last seen."""
    passed_through_grace_s: Seconds = 86_400
    """A GPU that a virtual machine has, and nobody can read, counts this long after it was last
    seen."""


class Persistence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When an incident moves a value. Judgement; NVSentinel#1710 (672 false fatals in 3 h) is why."""

    enabled: bool = True
    """Off: an incident moves the value at once."""
    windows: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2
    """Windows running that it must stand in, unless the driver itself confirms it."""


class Findings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is done with findings of plausibility and reconciliation: they never move a value."""

    keep_s: Seconds = 30 * 86_400
    """One that has not been so for this long is forgotten. Judgement."""


class Health(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Factors on value. Judgement: no public data pairs telemetry with sale prices."""

    degraded_bps: Bps = 8_500
    """Taken for a GPU with a degraded incident. An impaired one does not count at all."""


class Market(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From prices to values under a premise."""

    used_of_new_bps: Bps = 6_500
    """Used price ÷ new price where nothing is known of used ones. Judgement, inside .55 (as it is)
    to .72 (used and working) of SpotWire's valuator_data.json (CC BY), and inside the medians .52 to
    .80 of sold ÷ retail ask by model, which were measured on consumer cards."""
    olv_of_fmv_bps: Bps = 8_500
    """OLV ÷ FMV: 90 days of exposure ÷ 180. Evidence: SpotWire valuator_data.json (CC BY)."""
    flv_of_olv_bps: Bps = 7_500
    """FLV ÷ OLV. Evidence for .70 to .80; the middle is judgement."""
    sale_cost_bps: Bps = 3_000
    """Cost of a sale through a reseller, of the gross price. Evidence: "sUSDai Risk Rating"
    (April 2026), citing Stablewatch: about 30%."""
    price_age_max_days: Annotated[int, msgspec.Meta(ge=1, le=36_500)] = 180
    """An older price is no price: the value is unknown. Judgement."""
    ask_to_sold_bps: Bps = 6_500
    """Sold ÷ retail asking price where a class has no pairs of its own. Evidence for medians of .52
    to .80 by model, on consumer cards; the middle is judgement."""
    sellers_min: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 3
    """Sellers below which a level is thin: its error is widened. Judgement: the best three asks of
    one model doubled and halved within four months."""


class Income(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a GPU earns over its remaining time of use. Judgement, but where it says otherwise."""

    months: Annotated[int, msgspec.Meta(ge=1, le=120)] = 36
    """Evidence: loans amortise over about 36 months (USD.AI)."""
    utilisation_bps: Bps = 7_000
    """Hours sold ÷ hours: what the market clears at, so that an idle owner lowers no value and a busy
    one raises none."""
    platform_fee_bps: Bps = 1_000
    """Taken of what renters pay, by marketplaces or for selling."""
    pue_bps: Annotated[int, msgspec.Meta(ge=10_000, le=30_000)] = 13_000
    """Power of the whole site ÷ power of the machines. Evidence: 1.3 or better where newly built, 1.56
    on average (Uptime Institute, survey of 2024)."""
    energy_micros_per_kwh: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 80_000
    hosting_micros_per_kw_month: Annotated[int, msgspec.Meta(ge=0, le=10**10)] = 184_000_000
    """Evidence: 184.06 asked for 250 to 500 kW in primary markets of North America (CBRE, second half of
    2024); larger halls pay less."""
    host_share_bps: Annotated[int, msgspec.Meta(ge=10_000, le=40_000)] = 14_000
    """Power of a server ÷ the most that its GPUs draw, on average over its hours. Evidence for 1.8 at
    the very most (10.2 kW of a DGX H100); the average is judgement."""
    operation_micros_per_month: Annotated[int, msgspec.Meta(ge=0, le=10**10)] = 40_000_000
    """People, network, spares and insurance for one GPU."""
    discount_bps_per_year: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 1_400
    """Evidence for 6 to 15% on loans against such hardware (CoreWeave's filings, USD.AI); the point is
    judgement."""
    hazard_bps_per_year: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 400
    """Failures a year that end a GPU's use: a prior. Evidence for 9% a year as more than the most:
    220 of 16,384 H100 stopped one job within 54 days (Meta's Llama 3), and few of them for good."""
    committed_1y_bps: Bps = 6_500
    """Committed ÷ on demand where the data have no pair. Evidence: GCP .63 to .69."""
    committed_3y_bps: Bps = 4_200
    """Evidence: GCP .35 to .45."""
    leverage_error_e6: Annotated[int, msgspec.Meta(ge=0, le=3_000_000)] = 250_000
    """Error of the approach, beside its own, where all costs come to the hardware's price, and in
    proportion: what is left between two large numbers is not well known. Judgement."""
    far_e6: Annotated[int, msgspec.Meta(ge=100_000, le=3_000_000)] = 1_000_000
    """It says at most so much more or less than the hardware's price, in log: beyond a factor of e its
    inputs are wrong. Judgement."""
    residual_year_bps: Bps = 8_000
    """What hardware keeps of its price in a year where no drift was fitted. Evidence for -15 to -25% a
    year (USD.AI assumes 15 to 20%); the middle is judgement."""
    residual_least_bps: Annotated[int, msgspec.Meta(ge=1_000, le=10_000)] = 6_000
    """No fitted drift takes more in a year, and none adds: a boom is not carried on. Judgement."""


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the same work would cost to buy today. Judgement."""

    performance_power_bps: Annotated[int, msgspec.Meta(ge=0, le=20_000)] = 8_000
    """β: a product of k times the performance is worth k^β times as much. Of weaker ones that take its
    place, 1 ÷ k are bought: there it is at least 1."""
    performance_least_bps: Annotated[int, msgspec.Meta(ge=100, le=10_000)] = 5_000
    """What does less of its work takes no GPU's place: several need hosts and power that no price of
    theirs holds."""
    performance_most_bps: Annotated[int, msgspec.Meta(ge=10_000, le=1_000_000)] = 40_000
    """Nor does what does more: nobody buys it for this work."""


class Reconciliation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the approaches become one value: each weighs by the inverse square of its error."""

    market_error_e6: Annotated[int, msgspec.Meta(ge=10_000, le=3_000_000)] = 250_000
    income_error_e6: Annotated[int, msgspec.Meta(ge=10_000, le=3_000_000)] = 400_000
    cost_error_e6: Annotated[int, msgspec.Meta(ge=10_000, le=3_000_000)] = 450_000
    """Standard errors of the logarithm, in millionths: judgement, used for every class that has
    fewer than `sales_min` realised sales to test on."""
    appraisal_error_e6: Annotated[int, msgspec.Meta(ge=10_000, le=3_000_000)] = 100_000
    """Of a signed appraisal on its day; it grows as prices move. Judgement."""
    appraisal_age_max_days: Annotated[int, msgspec.Meta(ge=1, le=3_660)] = 365
    hedonic_error_e6: Annotated[int, msgspec.Meta(ge=10_000, le=3_000_000)] = 600_000
    """An approach's, where nobody quotes the product and its level is estimated from others of its
    class. Judgement."""
    thin_error_e6: Annotated[int, msgspec.Meta(ge=0, le=3_000_000)] = 250_000
    """Added (its square, by the share of sellers that lack) to a thin level's error. Judgement: one
    seller's quote predicted from the others' median misses by about a quarter."""
    missing_e6: Annotated[int, msgspec.Meta(ge=0, le=3_000_000)] = 200_000
    """For lending, an approach that says nothing is taken to say so much less than the others, in log,
    at its usual weight: one source alone lends less. Judgement."""
    sales_min: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 30
    """Realised sales that a class needs to count as validated."""
    disagreement_sigmas_bps: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 20_000
    """How many standard errors an approach may lie off before they are said to disagree."""
    daily_volatility_e6: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 12_000
    """By which an error grows with the square root of age where none was fitted: 11% over a quarter,
    23% over a year. Half of it is the least that any fit makes of it. Judgement."""


class Factors(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Named factors on value, beside health. Judgement."""

    board_partial_bps: Bps = 8_500
    """A module for a baseboard whose other GPUs are not pledged with it: hard to sell alone."""
    export_bps: Bps = 9_000
    """A variant made for one country's export rules: fewer buyers."""
    warranty_bps: Annotated[int, msgspec.Meta(ge=10_000, le=15_000)] = 10_300
    """Under its maker's warranty for at least `warranty_days` more."""
    warranty_days: Annotated[int, msgspec.Meta(ge=1, le=3_660)] = 180
    lot_free: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 64
    """A lot of so many sells as one does, where no market shows how many are sold."""
    lot_free_of_sales_bps: Bps = 1_000
    """Where one does: this share of a month's sales. Evidence for the share as the point from which
    lenders take forced-sale value; that it starts the steps is judgement."""
    lot_doubling_bps: Bps = 9_700
    """Each doubling beyond it, on OLV and FLV alone."""
    lot_least_bps: Bps = 7_500


class Lending(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From values to what the house would lend on, beside assurance. It only advises."""

    market_haircut_bps: Bps = 3_000
    """Fall of prices while collateral is called, cured and sold, where none was fitted. Judgement:
    on measured tails over 120 days a loan against hardware alone stands at about half of OLV."""
    market_haircut_least_bps: Bps = 1_000
    """No fit makes it less. Judgement."""


class Concentration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Shares of what the book has pledged (OLV) above which loans are told so. Judgement, on
    asset-based lending's practice; no value and no state moves by them.
    """

    model_bps: Bps = 5_000
    """Of one generation of models."""
    site_bps: Bps = 2_500
    offtaker_bps: Bps = 3_000
    lot_of_sales_bps: Bps = 1_000
    """A loan's GPUs of one product ÷ the sales a month that its market shows."""


class Stress(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `assay-valuer stress` supposes where the market has no history. No value rests on it."""

    falls_bps: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=1, le=9_999)], ...], msgspec.Meta(max_length=16)
    ] = (1_500, 3_000, 5_000)
    """Judgement: the last is about what H100 rental lost from early 2024 to autumn 2025."""


class Assurance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Most that is lent on net value, by how far evidence can be trusted. Judgement."""

    l0_bps: Bps = 1_000
    l1_bps: Bps = 2_500
    l2_bps: Bps = 6_000
    l2_plus_bps: Bps = 7_000
    l3_bps: Bps = 8_000
    custody_bps: Bps = 1_500
    """Added where the hardware is in a bailee's custody."""
    max_bps: Bps = 9_500

    def cap_bps(self, level: int) -> int:
        """The cap for an assurance as reports carry it: 0 to 4, and 128 for custody."""
        steps = (self.l0_bps, self.l1_bps, self.l2_bps, self.l2_plus_bps, self.l3_bps)
        cap = steps[min(level & 127, len(steps) - 1)]
        return min(cap + (self.custody_bps if level & 128 else 0), self.max_bps)


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How hardware must prove itself, and how long that is believed. Judgement: no loss data exists."""

    tpm_interval_s: Seconds = 3_600
    """A host's TPM is challenged at a random time within each of these."""
    device_interval_s: Seconds = 6 * 3_600
    """So are its devices."""
    answer_within_s: Annotated[int, msgspec.Meta(ge=5, le=3_600)] = 300
    """How long an answer may take. No bound is known for what a report takes on real hardware."""
    full_intervals: Annotated[int, msgspec.Meta(ge=2, le=10)] = 2
    """A proof counts in full for so many intervals: challenges come at a random time within each,
    so between two of an honest host's proofs there are up to two."""
    decayed_intervals: Annotated[int, msgspec.Meta(ge=3, le=100)] = 3
    """It falls in a line from then on, and is worth the level below after so many."""
    silence_zero_s: Seconds = 7 * 86_400
    """Nothing is lent on a GPU whose host has shown nothing for this long."""
    pcrs: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=15)], ...], msgspec.Meta(min_length=1)
    ] = (0, 2, 4, 7)
    """Firmware, option ROMs, boot loader, Secure Boot. 16 and 23 can be reset by anyone."""
    simulated_tpm_roots: tuple[str, ...] = ()
    """SHA-256 of roots of simulated or virtual TPMs that count as L1 all the same. Of others, and
    of software TPMs, a host stays at L0."""
    device_roots: tuple[str, ...] = ()
    """SHA-256 of roots of simulated devices that are believed beside NVIDIA's. Only for
    demonstrations: they are simulated wherever they are shown."""
    ocsp: Literal["required", "waived"] = "required"
    """Without a fresh answer that a device's certificates are not revoked there is no L2; where it
    is waived, every GPU of L2 says so."""
    ocsp_age_max_s: Seconds = 86_400
    """How old an answer may be, whatever its next update says."""


class Lifecycle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the lender accepts of asset events without a look. Judgement."""

    accept_maintenance_s: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 86_400
    """Maintenance of up to this long takes the operator's signature alone; longer, the lender's too."""


class Publishing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a feed gets a new round. Judgement, on what other oracles do."""

    deviation_bps: Bps = 100
    """Move of net value since the last round that is worth a new one."""
    coverage_drop_bps: Bps = 200
    """Fall of coverage that is published at once."""
    heartbeat_s: Seconds = 86_400
    """A round at least this often. Drift of 15 to 20% a year makes this the usual trigger."""
    valid_s: Annotated[int, msgspec.Meta(ge=60, le=72 * 3600)] = 48 * 3600
    """How long a round may be used after its oldest evidence. The hub refuses more than 72 h."""
    expiry_margin_s: Seconds = 6 * 3600
    """A round about to expire within this long is renewed, if newer evidence allows."""
    threshold_hysteresis_bps: Bps = 25
    """How far below an LTV threshold counts as having gone back under it."""
    interval_min_s: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 900
    """Least time between two rounds, but for triggers that are immediate."""


class ValuerPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole policy. An empty file is the default; `name` is shown wherever it was used."""

    name: str = "default"
    credit_simulated: bool = False
    """Whether simulated or replayed GPUs count. Only for demonstrations."""
    ltv_thresholds_bps: tuple[Annotated[int, msgspec.Meta(ge=1, le=65_535)], ...] = (
        7_000,
        7_500,
        8_000,
        8_500,
    )
    """Gross LTV that is watched. Evidence for 80% (USD.AI's maximum at origination, May 2026);
    the others are judgement around it. From the first on, a loan is WATCH."""
    silence: Silence = msgspec.field(default_factory=Silence)
    persistence: Persistence = msgspec.field(default_factory=Persistence)
    incidents: HealthPolicy = msgspec.field(default_factory=HealthPolicy)
    """How long incidents last: the agent judges by the defaults, we by these."""
    findings: Findings = msgspec.field(default_factory=Findings)
    health: Health = msgspec.field(default_factory=Health)
    market: Market = msgspec.field(default_factory=Market)
    income: Income = msgspec.field(default_factory=Income)
    cost: Cost = msgspec.field(default_factory=Cost)
    reconciliation: Reconciliation = msgspec.field(default_factory=Reconciliation)
    factors: Factors = msgspec.field(default_factory=Factors)
    lending: Lending = msgspec.field(default_factory=Lending)
    concentration: Concentration = msgspec.field(default_factory=Concentration)
    stress: Stress = msgspec.field(default_factory=Stress)
    assurance: Assurance = msgspec.field(default_factory=Assurance)
    evidence: Evidence = msgspec.field(default_factory=Evidence)
    lifecycle: Lifecycle = msgspec.field(default_factory=Lifecycle)
    publishing: Publishing = msgspec.field(default_factory=Publishing)

    def __post_init__(self) -> None:
        thresholds = self.ltv_thresholds_bps
        if not thresholds or list(thresholds) != sorted(set(thresholds)):
            raise ValueError("ltv_thresholds_bps: at least one, ascending, none twice")
        if self.publishing.expiry_margin_s >= self.publishing.valid_s:
            raise ValueError("publishing.expiry_margin_s: not below valid_s, every round is due")
        if list(self.evidence.pcrs) != sorted(set(self.evidence.pcrs)):
            raise ValueError("evidence.pcrs: ascending, none twice")
        if self.evidence.decayed_intervals <= self.evidence.full_intervals:
            raise ValueError("evidence.decayed_intervals: not above full_intervals")
        steps = [self.assurance.cap_bps(level) for level in range(5)]
        if steps != sorted(steps):
            raise ValueError("assurance: a better proof must never lower the cap")

    @property
    def sha256(self) -> str:
        """The policy's own name: SHA-256 of its canonical JSON, hex."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


DEFAULT: Final = ValuerPolicy()


def ms(seconds: int) -> int:
    """Seconds of the policy as the milliseconds that everything else counts in."""
    return seconds * SECOND_MS
