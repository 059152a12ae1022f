"""From the configuration to feeds."""

from __future__ import annotations

from pathlib import Path

from assay_core.errors import FileError
from assay_valuer.config import FeedConfig, MarketConfig
from assay_valuer.market.feeds.feed import Feed, Format
from assay_valuer.market.feeds.file import SUFFIXES, FileFeed
from assay_valuer.market.feeds.http import HttpFeed
from assay_valuer.market.observations import Market


def open_feeds(config: MarketConfig) -> tuple[Feed, ...]:
    """The feeds of a configuration, in its order. Nothing is asked yet. Raises FileError."""
    return tuple(_feed(one, config) for one in config.feeds)


def _feed(one: FeedConfig, config: MarketConfig) -> Feed:
    market = Market(one.market)
    format_ = None if one.format is None else Format(one.format)
    if one.url is not None:
        return HttpFeed(
            name=one.name,
            market=market,
            url=one.url,
            hosts=frozenset(config.hosts),
            format=format_,
            token_file=None if one.token_file is None else Path(one.token_file),
            own_ca=None if one.own_ca is None else Path(one.own_ca),
            proxy=config.proxy,
        )
    if one.path is None:
        raise FileError(f"feed {one.name}: either path or url is needed")
    path = Path(one.path)
    format_ = format_ or SUFFIXES.get(path.suffix.lower())
    if format_ is None:
        raise FileError(f"feed {one.name}: format: is needed, since the path does not end in one")
    return FileFeed(one.name, market, path, format_)
