"""The valuer's configuration file, valuer.yaml. Every default is safe to run with, on loopback."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from assay_core import files
from assay_core.errors import FileError
from assay_core.header import Source
from assay_valuer.policy import ValuerPolicy

_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,126}[a-z0-9])?")
_SOURCES: Final = {"nvml": Source.NVML, "replay": Source.REPLAY, "simulated": Source.SIMULATED}

FEED_SUFFIXES: Final = (".csv", ".json", ".parquet")
"""What a price file's name ends in, where the configuration does not say how it is written."""

_Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
_Address = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{40}$")]


class ListenerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the valuer listens, and how hosts reach it."""

    listen: str
    """name:port or address:port; port 0 takes any free one."""
    public: str | None = None
    """name:port that hosts are told, and that the certificate is for; as `listen` without it."""


class AuthorityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The operator's own certificate authority, instead of the one that `init` makes."""

    certificate: str
    key: str
    """Trusted: whoever reads this can be any host's transport, though not seal its windows."""


class IngestConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds at the door. Beyond each, the valuer refuses with a reason."""

    streams_max: _Count = 5_000
    in_flight_max: _Count = 64
    """Windows of one host that may wait for their acknowledgement."""
    queue_max: _Count = 4_096
    """Windows of all hosts that may wait for their commit."""
    batch_max: _Count = 512
    """Windows in one transaction."""
    linger_ms: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 20
    """How long a commit waits for company: one flush of the disk then serves many windows, and one
    message acknowledges several. Under load 20 take a tenth less CPU than 5."""
    enrolments_per_minute: _Count = 600
    """Enrolments and renewals of all hosts together."""
    enrolments_per_minute_of_peer: _Count = 60
    """Of one network address."""


class MetricsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where Prometheus finds the valuer."""

    listen: str | None = "127.0.0.1:9465"
    """Loopback unless told otherwise; null for none."""


class OracleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The chain that reports are published to. When to publish is the policy's business."""

    enabled: bool = False
    rpc_urls: tuple[str, ...] = ()
    """JSON-RPC endpoints; of a real network at least two, of different operators."""
    chain_id: Annotated[int, msgspec.Meta(ge=1)] = 31_337
    development: bool = False
    """Says that the chain is a local development chain: simulated values may go there only."""
    hub: _Address | None = None
    """Address of the valuation hub."""
    report_keystores: tuple[str, ...] = ()
    """Encrypted keystores of the local report signers."""
    threshold: Annotated[int, msgspec.Meta(ge=1, le=32)] = 1
    """Signatures a report needs: the hub's k."""
    sender_keystore: str | None = None
    """Encrypted keystore that pays for transactions and signs no report."""
    passphrase_file: str | None = None
    """One line, mode 0600 or a systemd credential: opens every keystore above."""
    loan_state_s: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 300
    """How often loans that name their router are read from it; 0: never. It takes `rpc_urls` and
    `chain_id` alone, and publishes nothing."""


class OcspConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is asked whether devices' certificates were revoked. It learns which devices there are."""

    enabled: bool = False
    """Off, no GPU is above L1, unless `policy.evidence.ocsp` waives the question."""
    url: str = "https://ocsp.ndis.nvidia.com"
    """The only address that is ever asked; NVIDIA's own responder."""


class ApiConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The lender's HTTP API, for machines. Off unless `listen` is set; see docs/api.md."""

    listen: str | None = None
    """name:port or address:port. Off loopback only over TLS."""
    certificate: str | None = None
    """The listener's own, with its chain, PEM; a renewed one is taken within a minute."""
    key: str | None = None
    """Its key, PEM, mode 0600."""
    tokens_file: str | None = None
    """Who may call; without one, api-tokens.json in state_dir. Written by `assay-valuer api-token`."""
    requests_per_minute_of_token: _Count = 600
    requests_per_minute_of_peer: _Count = 1_200
    """Of one network address, whatever it shows."""
    connections_max: Annotated[int, msgspec.Meta(ge=2, le=10_000)] = 128
    """Open at once; whoever comes beyond them is told 503."""
    head_within_s: Annotated[int, msgspec.Meta(ge=1, le=300)] = 10
    """How long a caller may take to a request's whole head; then its connection ends."""
    body_within_s: Annotated[int, msgspec.Meta(ge=1, le=300)] = 15
    """And from there to its whole body. Judgement: a megabyte at half a megabit a second."""


class FeedConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One source of price rows: a file of this machine, or a URL."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
    """What rows are kept under; a feed that gets another name is another feed."""
    market: Literal["rental", "resale"]
    path: str | None = None
    url: str | None = None
    format: Literal["csv", "json", "parquet"] | None = None
    """Without one, what the file's name ends in, or what the server says it is."""
    every_s: Annotated[int, msgspec.Meta(ge=10, le=7 * 86_400)] = 3_600
    token_file: str | None = None
    """A bearer token, sent to the URL's own host alone; mode 0600 or a systemd credential."""
    own_ca: str | None = None
    """Certificates, PEM, that alone may vouch for the server; without them, the public ones."""


class MarketConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where prices come from. Whoever edits this chooses whom the valuer believes."""

    feeds: Annotated[tuple[FeedConfig, ...], msgspec.Meta(max_length=32)] = ()
    hosts: Annotated[
        tuple[Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9.:\[\]-]{1,253}$")], ...],
        msgspec.Meta(max_length=64),
    ] = ()
    """The only hosts that are asked, as name or name:port; also after a redirect."""
    proxy: str | None = None
    """The proxy that feeds are asked through; none is taken from the environment."""
    stale_after_days: Annotated[int, msgspec.Meta(ge=1, le=365)] = 14
    """A feed that gave nothing new for so long is said to be stale."""


class ValuerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of valuer.yaml."""

    state_dir: str = "/var/lib/assay-valuer"
    """Keys and the store; 0700, owned by the valuer's user."""
    trust_domain: str = "assay.internal"
    """The SPIFFE trust domain that host ids are in. It can never change."""
    enrolment: ListenerConfig = ListenerConfig(listen="127.0.0.1:8443")
    attestation: ListenerConfig = ListenerConfig(listen="127.0.0.1:8444")
    store_url: str | None = None
    """SQLAlchemy URL of the store; without one, valuer.db in state_dir."""
    authority: AuthorityConfig | None = None
    ledger_key: str | None = None
    """The key that signs the valuer's own records; without one, ledger.key in state_dir."""
    sources: tuple[Literal["nvml", "replay", "simulated"], ...] = ("nvml",)
    """Whose windows are taken. What is not nvml is shown as simulated wherever it appears."""
    certificate_life_s: Annotated[int, msgspec.Meta(ge=60, le=30 * 86_400)] = 86_400
    """Life of a host's client certificate; it is renewed at half of it."""
    window_ms: Annotated[int, msgspec.Meta(ge=0, le=900_000)] = 0
    """Length of window that hosts are asked for; 0 asks for none."""
    tick_s: Annotated[int, msgspec.Meta(ge=1, le=300)] = 10
    """How often everything is valued anew. A health event does so at once."""
    ingest: IngestConfig = IngestConfig()
    metrics: MetricsConfig = MetricsConfig()
    policy: ValuerPolicy = msgspec.field(default_factory=ValuerPolicy)
    oracle: OracleConfig = OracleConfig()
    ocsp: OcspConfig = OcspConfig()
    api: ApiConfig = ApiConfig()
    market: MarketConfig = MarketConfig()


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the valuer's files are."""

    state_dir: Path
    authority_certificate: Path
    authority_key: Path
    ledger_key: Path
    store_url: str


def load(path: Path | None) -> ValuerConfig:
    """Reads valuer.yaml; without a file, the defaults. Raises FileError with line and field."""
    if path is None:
        return ValuerConfig()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read: {error}") from error
    if not text.strip():
        return ValuerConfig()
    config = files.parse(text, ValuerConfig, str(path))
    if _TRUST_DOMAIN.fullmatch(config.trust_domain) is None:
        raise FileError(f"{path}: trust_domain: {config.trust_domain!r} is not a domain name")
    if not config.sources:
        raise FileError(f"{path}: sources: at least one must be taken")
    for field, value in (
        ("enrolment.listen", config.enrolment.listen),
        ("enrolment.public", config.enrolment.public),
        ("attestation.listen", config.attestation.listen),
        ("attestation.public", config.attestation.public),
        ("metrics.listen", config.metrics.listen),
        ("api.listen", config.api.listen),
    ):
        if value is not None:
            split_endpoint(value, f"{path}: {field}")
    _check_oracle(config.oracle, str(path))
    if not is_safe_url(config.ocsp.url):
        raise FileError(f"{path}: ocsp.url: an https:// URL is needed")
    _check_market(config.market, str(path))
    _check_api(config.api, str(path))
    return config


def paths(config: ValuerConfig) -> Paths:
    """Where this configuration keeps its files."""
    state = Path(config.state_dir)
    own = config.authority
    return Paths(
        state_dir=state,
        authority_certificate=state / "ca.pem" if own is None else Path(own.certificate),
        authority_key=state / "ca.key" if own is None else Path(own.key),
        ledger_key=state / "ledger.key" if config.ledger_key is None else Path(config.ledger_key),
        store_url=config.store_url or f"sqlite:///{state / 'valuer.db'}",
    )


def accepted_sources(config: ValuerConfig) -> frozenset[Source]:
    """The sources whose windows verify() lets in."""
    return frozenset(_SOURCES[name] for name in config.sources)


def split_endpoint(endpoint: str, where: str) -> tuple[str, int]:
    """The parts of "name:port" or "[address]:port". Raises FileError."""
    name, separator, port = endpoint.rpartition(":")
    if not separator or not name or not port.isdecimal() or int(port) > 65_535:
        raise FileError(f"{where}: {endpoint!r} is not name:port")
    return name.removeprefix("[").removesuffix("]"), int(port)


def is_safe_url(url: str) -> bool:
    """Whether a URL is of TLS, or of this machine."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    )


def is_loopback(hostname: str) -> bool:
    """Whether a name or address is this machine's own."""
    if hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return False


def _check_api(api: ApiConfig, name: str) -> None:
    if (api.certificate is None) != (api.key is None):
        raise FileError(f"{name}: api.key: a certificate and its key go together")
    if api.listen is None or api.certificate is not None:
        return
    address, _ = split_endpoint(api.listen, f"{name}: api.listen")
    if not is_loopback(address):
        raise FileError(
            f"{name}: api.certificate: is needed off loopback, with api.key: tokens would be read on "
            "the way"
        )


def _check_oracle(oracle: OracleConfig, name: str) -> None:
    if not oracle.enabled:
        return
    for field, value in (
        ("rpc_urls", oracle.rpc_urls),
        ("hub", oracle.hub),
        ("report_keystores", oracle.report_keystores),
        ("sender_keystore", oracle.sender_keystore),
        ("passphrase_file", oracle.passphrase_file),
    ):
        if not value:
            raise FileError(f"{name}: oracle.{field}: is needed where oracle.enabled is true")
    if oracle.threshold > len(oracle.report_keystores):
        raise FileError(f"{name}: oracle.threshold: more than there are report_keystores")


def _check_market(market: MarketConfig, name: str) -> None:
    names: set[str] = set()
    if market.proxy is not None and urlsplit(market.proxy).scheme not in ("http", "https"):
        raise FileError(f"{name}: market.proxy: an http:// or https:// URL is needed")
    for at, feed in enumerate(market.feeds):
        where = f"{name}: market.feeds.{at}"
        if feed.name in names:
            raise FileError(f"{where}.name: {feed.name!r} is the name of another feed")
        names.add(feed.name)
        if (feed.path is None) == (feed.url is None):
            raise FileError(f"{where}: either path or url is needed")
        if feed.path is not None:
            _check_file_feed(feed, feed.path, where)
        if feed.url is not None:
            _check_url(feed.url, market.hosts, where)


def _check_file_feed(feed: FeedConfig, path: str, where: str) -> None:
    if feed.token_file is not None or feed.own_ca is not None:
        raise FileError(f"{where}: token_file and own_ca are for a url")
    if feed.format is None and Path(path).suffix.lower() not in FEED_SUFFIXES:
        raise FileError(f"{where}.format: is needed, since {path!r} does not end in one")


def _check_url(url: str, hosts: tuple[str, ...], where: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise FileError(f"{where}.url: {error}") from error
    if not is_safe_url(url):
        raise FileError(f"{where}.url: an https:// URL is needed")
    if parts.username is not None or parts.password is not None:
        raise FileError(f"{where}.url: a name in a URL is sent to nobody; use token_file")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    usual = port in (None, 443 if parts.scheme == "https" else 80)
    place = host if usual else f"{host}:{port}"
    if place not in hosts:
        raise FileError(f"{where}.url: {place} is not in market.hosts")
