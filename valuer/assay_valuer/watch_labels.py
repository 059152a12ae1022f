"""What the families of watch and watch_trust share: their names, and whose series they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import GaugeMetricFamily

from assay_valuer.book import Book, Line
from assay_valuer.standing.types import Host

GPU: Final = ("gpu", "host", "loan", "model", "simulated")
HOST: Final = ("host", "site", "simulated")


def family(name: str, help_: str, *labels: str) -> GaugeMetricFamily:
    """A family without samples yet."""
    return GaugeMetricFamily(f"assay_{name}", help_, labels=labels)


def flag(value: bool) -> str:
    """A label's word for it."""
    return "true" if value else "false"


def gpu_labels(line: Line, book: Book) -> list[str]:
    """Values of the labels GPU."""
    host = book.hosts.get(line.asset.host_key) if line.asset.host_key is not None else None
    product = line.valuation.product
    return [
        line.asset.label,
        "" if host is None else host.host_id,
        line.loan_id or "",
        "unknown" if product is None else str(product),
        flag(line.standing.simulated),
    ]


def host_labels(host: Host, lines: Iterable[Line]) -> list[str]:
    """Values of the labels HOST; `lines` are its GPUs."""
    return [host.host_id, host.site, flag(any(line.standing.simulated for line in lines))]
