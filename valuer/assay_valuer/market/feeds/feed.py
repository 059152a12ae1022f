"""What a price feed is, what it gives, and the ways in which it fails.

A feed carries and parses; it judges no price. Rows that are rows go on as text, cell by cell, in the
columns of their market, for the gate to judge. What is no row at all is kept beside them, with where
it stood and why.

Whoever publishes a feed gains by what it says, so each is read within the bounds of rows.py and of
http.py, and one that fails gives nothing: the rows it gave before stay, and grow old.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from assay_core.errors import FileError, ServiceError
from assay_valuer.market.observations import Market, Rejected

Cells = Mapping[str, str]
"""One row: the text of each column of its market, empty where the feed says nothing, and of those
columns beside them that the feed has and the gate reads."""

COLUMNS: Final[Mapping[Market, tuple[str, ...]]] = {
    Market.RENTAL: (
        "date",
        "provider",
        "accelerator",
        "variant",
        "gpu_count",
        "usd_per_gpu_hour",
        "kind",
        "region",
        "n_obs",
        "source_repo",
        "source_commit_or_path",
    ),
    Market.RESALE: (
        "date",
        "accelerator",
        "price_usd",
        "price_type",
        "condition",
        "market",
        "n_obs",
        "source_repo",
        "source_commit_or_path",
    ),
}
"""What a row has, in this order. Others may stand beside them; those the gate reads are kept."""
OPTIONAL: Final = ("n_obs", "source_repo", "source_commit_or_path")
"""Columns that a feed may be without; their cells are then empty."""
BYTES_MAX: Final = 16 * 1024 * 1024
"""Of what a feed gives, after decompression."""


class Format(enum.StrEnum):
    """How rows are written."""

    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


class Fault(enum.StrEnum):
    """Why a feed gave nothing. The value is the metric's label and the log's code."""

    FILE = "file"
    """A local file that is not there, is no regular file, or cannot be read."""
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    TLS = "tls"
    """The server did not prove that it is who it should be."""
    STATUS = "status"
    """An HTTP status that is no answer."""
    REDIRECT = "redirect"
    """Sent on to where it may not be followed, or too often."""
    TOKEN = "token"  # noqa: S105 - a reason, not a secret
    TOO_LARGE = "too_large"
    ENCODING = "encoding"
    """Compressed in a way that is not taken, or wrongly."""
    FORMAT = "format"
    """Not known to be CSV, JSON or Parquet."""
    MALFORMED = "malformed"
    COLUMNS = "columns"
    PARQUET = "parquet"
    """Parquet cannot be read here: the extra is not installed, or its process failed."""
    STORE = "store"
    INTERNAL = "internal"


class FeedUnavailable(ServiceError):
    """The feed could not be had: our, its server's or the network's doing. Asked again in time."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault


class FeedMalformed(FileError):
    """What the feed gave is no table of rows: its publisher's doing. Nothing of it was taken."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault


FeedError = FeedUnavailable | FeedMalformed


@dataclass(frozen=True, slots=True)
class Known:
    """What was had of a feed last: it need not give the same again."""

    etag: str | None = None
    last_modified: str | None = None
    content_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a feed gave that it did not give last time.

    `unread`: what is no row; `line` there is the line of a CSV, or the number of an object from 1, or
    the line that a row of Parquet would have in a CSV.
    `content_sha256`: of the bytes as they were parsed, hex.
    """

    rows: tuple[Cells, ...]
    unread: tuple[Rejected, ...]
    content_sha256: str
    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The feed gives what it gave; by these it may be asked the next time."""

    etag: str | None = None
    last_modified: str | None = None


class Feed(Protocol):
    """A source of price rows of one market."""

    @property
    def name(self) -> str:
        """What the configuration calls it: 1 to 64 characters, of no other feed."""
        ...

    @property
    def market(self) -> Market:
        """What its prices are for."""
        ...

    async def fetch(self, known: Known) -> Fetched | Unchanged:
        """What it gives now. Bounded in time, and never blocks the event loop.

        Raises FeedUnavailable or FeedMalformed; neither ever names a secret.
        """
        ...
