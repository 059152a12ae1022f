"""What the oracle's commands share: the configured hub, and the loans that are meant."""

from __future__ import annotations

from collections.abc import Sequence

from eth_utils.address import to_checksum_address

from assay_core.errors import AssayError, FileError
from assay_valuer.book import Loan
from assay_valuer.book_store import load_loans
from assay_valuer.config import ValuerConfig
from assay_valuer.oracle.hub import Hub
from assay_valuer.oracle.report import Domain
from assay_valuer.oracle.rpc import ChainUnreachable, JsonRpc
from assay_valuer.state import State


def configured_domain(config: ValuerConfig) -> Domain:
    """The hub that valuer.yaml names. Raises FileError."""
    if config.oracle.hub is None:
        raise FileError(
            "oracle.hub: is needed in valuer.yaml; `assay-valuer oracle deploy` prints its lines"
        )
    return Domain(config.oracle.chain_id, to_checksum_address(config.oracle.hub))


def endpoints(config: ValuerConfig, given: str | None) -> tuple[str, ...]:
    """The endpoint that was given, or else those configured. Raises FileError."""
    urls = config.oracle.rpc_urls if given is None else (given,)
    if not urls:
        raise FileError("--rpc, or oracle.rpc_urls in valuer.yaml, is needed")
    if not all(url.startswith(("http://", "https://")) for url in urls):
        raise FileError("--rpc and oracle.rpc_urls: an endpoint is an http:// or https:// URL")
    return urls


def open_hub(config: ValuerConfig, given: str | None) -> Hub:
    """The configured hub through the first endpoint that answers, checked to be our contract.

    Raises FileError, ChainError, HubError.
    """
    domain = configured_domain(config)
    urls = endpoints(config, given)
    for url in urls[:-1]:
        hub = Hub(JsonRpc(url), domain)
        try:
            hub.check()
        except ChainUnreachable:
            hub.rpc.close()
            continue
        return hub
    hub = Hub(JsonRpc(urls[-1]), domain)
    hub.check()
    return hub


def chosen_loans(state: State, names: Sequence[str]) -> tuple[Loan, ...]:
    """The loans of these names; all where none is named. Raises AssayError for an unknown one."""
    loans = state.database.read(load_loans)
    unknown = sorted(set(names) - {loan.file.id for loan in loans})
    if unknown:
        raise AssayError(
            f"there is no loan {unknown[0]}; register it first: assay-valuer loan import FILE"
        )
    return tuple(loan for loan in loans if not names or loan.file.id in names)
