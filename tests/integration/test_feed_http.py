"""Feeds over HTTP, of a server that truly listens: what is taken, and what is refused and how."""

from __future__ import annotations

import asyncio
import gzip
import io
import itertools
import re
import socket
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from structlog.dev import RichTracebackFormatter

from assay_core.errors import FileError
from assay_valuer.market.feeds.feed import (
    COLUMNS,
    Fault,
    FeedMalformed,
    FeedUnavailable,
    Fetched,
    Format,
    Known,
    Unchanged,
)
from assay_valuer.market.feeds.http import HttpFeed
from assay_valuer.market.feeds.web import Limits
from assay_valuer.market.observations import Market
from tests.fakes.feed_server import (
    Answer,
    FeedServer,
    Identity,
    gives,
    identity,
    pours,
    says,
    unless_known,
)
from tests.fakes.price_files import RENTAL_HEAD, rental_file, rental_row

TABLE = rental_file([rental_row("2026-11-20", 2.5), rental_row("2026-11-21", "2.50")]).encode()
TOKEN = "s3cret-t0ken.of_ours~1"
QUICK = Limits(connect_s=5, read_s=5, total_s=30, backoff_s=0.01, wait_max_s=2)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return identity(tmp_path_factory.mktemp("identity"))


@pytest.fixture
def server(shown: Identity) -> Iterator[FeedServer]:
    one = FeedServer(shown)
    yield one
    one.stop()


@pytest.fixture
def other(shown: Identity) -> Iterator[FeedServer]:
    """A second server, under the same authority."""
    one = FeedServer(shown)
    yield one
    one.stop()


def feed(server: FeedServer, ca: Path, *, url: str | None = None, **more: object) -> HttpFeed:
    settings = {
        "name": "test",
        "market": Market.RENTAL,
        "url": url or server.url(),
        "hosts": frozenset({server.place()}),
        "own_ca": ca,
        "limits": QUICK,
    }
    return HttpFeed(**(settings | more))


NOTHING = Known()


def fetch(one: HttpFeed, known: Known = NOTHING) -> Fetched | Unchanged:
    return asyncio.run(one.fetch(known))


def refused(one: HttpFeed, fault: Fault, words: str, known: Known = NOTHING) -> Exception:
    with pytest.raises((FeedUnavailable, FeedMalformed), match=words) as caught:
        fetch(one, known)
    assert caught.value.fault is fault
    assert str(caught.value).isprintable()
    return caught.value


def test_a_table_comes_over_tls_and_is_not_asked_for_twice(server: FeedServer, shown: Identity):
    server.answers(unless_known(TABLE, '"v1"'))
    one = feed(server, shown.ca)
    first = fetch(one)
    assert isinstance(first, Fetched)
    assert [row["usd_per_gpu_hour"] for row in first.rows] == ["2.5", "2.50"]
    assert first.rows[0].keys() == set(COLUMNS[Market.RENTAL])
    assert (first.unread, first.etag) == ((), '"v1"')
    again = fetch(one, Known(first.etag, first.last_modified, first.content_sha256))
    assert again == Unchanged('"v1"', None)
    assert [asked.headers.get("if-none-match") for asked in server.asked] == [None, '"v1"']


def test_by_date_too(server: FeedServer, shown: Identity):
    when = "Fri, 20 Nov 2026 10:00:00 GMT"
    server.answers(gives(TABLE, Last_Modified=when), says(304))
    one = feed(server, shown.ca)
    first = fetch(one)
    assert isinstance(first, Fetched)
    again = fetch(one, Known(first.etag, first.last_modified, first.content_sha256))
    assert again == Unchanged(None, when)
    assert server.asked[-1].headers["if-modified-since"] == when


def test_the_same_bytes_are_nothing_new_whatever_the_server_calls_them(
    server: FeedServer, shown: Identity
):
    server.answers(gives(TABLE, ETag='"a"'), gives(TABLE, ETag='"b"'))
    one = feed(server, shown.ca)
    first = fetch(one)
    assert isinstance(first, Fetched)
    assert fetch(one, Known('"a"', None, first.content_sha256)) == Unchanged('"b"', None)


def test_not_modified_is_no_answer_to_who_knows_nothing(server: FeedServer, shown: Identity):
    server.answers(says(304))
    refused(feed(server, shown.ca), Fault.STATUS, "HTTP status 304")


@pytest.mark.parametrize(
    ("kind", "path", "format_"),
    [
        ("text/csv; charset=utf-8", "/prices", None),
        ("text/plain", "/a/prices.csv", None),
        ("application/octet-stream", "/prices.CSV", None),
        ("text/html", "/prices", Format.CSV),
    ],
)
def test_how_it_is_written_is_configured_or_said_by_the_server(
    server: FeedServer, shown: Identity, kind: str, path: str, format_: Format | None
):
    server.answers(gives(TABLE, kind), path=path)
    found = fetch(feed(server, shown.ca, url=server.url(path), format=format_))
    assert isinstance(found, Fetched)
    assert len(found.rows) == 2


def test_what_nobody_calls_by_a_name_is_refused(server: FeedServer, shown: Identity):
    server.answers(gives(TABLE, "text/html"))
    refused(feed(server, shown.ca), Fault.FORMAT, "neither CSV, JSON nor Parquet")


def test_a_page_that_asks_to_log_in_is_no_table(server: FeedServer, shown: Identity):
    server.answers(gives(b"<html><body>Sign in</body></html>", "text/html"))
    one = feed(server, shown.ca, format=Format.CSV)
    refused(one, Fault.COLUMNS, "no column 'date'")


def test_gzip_is_unpacked(server: FeedServer, shown: Identity):
    server.answers(gives(gzip.compress(TABLE), Content_Encoding="gzip"))
    found = fetch(feed(server, shown.ca))
    assert isinstance(found, Fetched)
    assert len(found.rows) == 2
    assert server.asked[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("data", "encoding", "words"),
    [
        (TABLE, "br", "packed as 'br'"),
        (TABLE, "gzip, gzip", "packed as"),
        (TABLE, "gzip", "is not gzip"),
        (gzip.compress(TABLE)[:-9], "gzip", "ends before its end"),
        (gzip.compress(TABLE) + gzip.compress(TABLE), "gzip", "goes on after its end"),
    ],
)
def test_other_packing_is_refused(
    server: FeedServer, shown: Identity, data: bytes, encoding: str, words: str
):
    server.answers(gives(data, Content_Encoding=encoding))
    refused(feed(server, shown.ca), Fault.ENCODING, words)


def test_more_than_the_bound_is_refused_while_it_comes(server: FeedServer, shown: Identity):
    endless = itertools.repeat(b"x" * 65_536)
    server.answers(pours(endless))
    limits = Limits(bytes_max=1_000_000, read_s=5)
    refused(feed(server, shown.ca, limits=limits), Fault.TOO_LARGE, "more than 1000000 bytes")


def test_a_bomb_of_gzip_is_refused_before_it_is_unpacked(server: FeedServer, shown: Identity):
    bomb = gzip.compress(bytes(200_000_000), compresslevel=9)
    assert len(bomb) < 1_000_000
    server.answers(gives(bomb, Content_Encoding="gzip"))
    limits = Limits(bytes_max=1_000_000, read_s=5)
    refused(feed(server, shown.ca, limits=limits), Fault.TOO_LARGE, "more than 1000000 bytes")


@pytest.mark.parametrize("where", ["body", "headers"])
def test_one_deadline_ends_a_server_that_never_does(
    server: FeedServer, shown: Identity, where: str
):
    """Each part comes in time for the read's own limit; all of it never would."""

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\n")
        if where == "body":
            handler.wfile.write(b"Connection: close\r\n\r\n")
        while not server.over.wait(0.02):
            handler.wfile.write(b"x" if where == "body" else b"X-A: b\r\n")

    server.answers(trickle)
    one = feed(server, shown.ca, limits=Limits(read_s=5, total_s=0.5))
    refused(one, Fault.TIMEOUT, r"no whole answer in 0\.5 s")


def test_a_server_that_says_nothing_is_given_up(server: FeedServer, shown: Identity):
    server.answers(lambda _: server.over.wait())
    limits = Limits(read_s=0.1, attempts=2, backoff_s=0.01)
    refused(feed(server, shown.ca, limits=limits), Fault.TIMEOUT, "asked 2 times")
    assert len(server.asked) == 2


def test_a_moment_of_trouble_is_got_over(server: FeedServer, shown: Identity):
    def breaks_off(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nContent-Length: 99\r\n\r\n"
        )

    server.answers(says(500), breaks_off, says(503), gives(TABLE))
    assert isinstance(fetch(feed(server, shown.ca)), Fetched)
    assert len(server.asked) == 4


def test_trouble_that_lasts_is_not(server: FeedServer, shown: Identity):
    server.answers(says(500))
    refused(feed(server, shown.ca), Fault.STATUS, "HTTP status 500; asked 4 times")
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 204, 206])
def test_no_is_no(server: FeedServer, shown: Identity, status: int):
    server.answers(says(status))
    refused(feed(server, shown.ca), Fault.STATUS, f"HTTP status {status}")
    assert len(server.asked) == 1


def test_a_server_that_asks_to_wait_is_waited_for(server: FeedServer, shown: Identity):
    server.answers(says(429, Retry_After="0"), says(429, Retry_After="1"), gives(TABLE))
    assert isinstance(fetch(feed(server, shown.ca)), Fetched)
    assert len(server.asked) == 3


@pytest.mark.parametrize("wait", ["3", "86400", "Fri, 20 Nov 2099 10:00:00 GMT"])
def test_one_that_asks_for_too_long_is_left_alone(server: FeedServer, shown: Identity, wait: str):
    server.answers(says(429, Retry_After=wait))
    refused(feed(server, shown.ca), Fault.STATUS, "asks to wait .*; asked once")
    assert len(server.asked) == 1


def test_a_redirect_within_the_list_is_followed(
    server: FeedServer, other: FeedServer, shown: Identity
):
    server.answers(says(302, Location="/moved"))
    server.answers(says(308, Location=other.url("/there.csv")), path="/moved")
    other.answers(gives(TABLE), path="/there.csv")
    one = feed(server, shown.ca, hosts=frozenset({server.place(), other.place()}))
    assert isinstance(fetch(one), Fetched)
    assert [asked.path for asked in server.asked + other.asked] == [
        "/prices.csv",
        "/moved",
        "/there.csv",
    ]


def test_a_redirect_out_of_the_list_is_not(server: FeedServer, other: FeedServer, shown: Identity):
    other.answers(gives(TABLE))
    server.answers(says(302, Location=other.url()))
    refused(feed(server, shown.ca), Fault.REDIRECT, "is not in market.hosts")
    assert other.asked == []


@pytest.mark.parametrize(
    "name", ["127.0.0.1", "LOCALHOST.", "user@localhost", "localhost@127.0.0.1"]
)
def test_nor_is_one_to_the_same_place_by_another_name(
    server: FeedServer, shown: Identity, name: str
):
    server.answers(says(302, Location=server.url("/there.csv", name)))
    refused(feed(server, shown.ca), Fault.REDIRECT, "is not in market.hosts")
    assert len(server.asked) == 1


def test_a_redirect_never_leaves_tls(server: FeedServer, shown: Identity):
    plain = FeedServer(None)
    try:
        plain.answers(gives(TABLE))
        server.answers(says(302, Location=plain.url()))
        hosts = frozenset({server.place(), plain.place()})
        refused(feed(server, shown.ca, hosts=hosts), Fault.REDIRECT, "no TLS")
        assert plain.asked == []
    finally:
        plain.stop()


@pytest.mark.parametrize(
    "to", [None, "", "http://[", "https://", "file:///etc/passwd", "/prices.csv"]
)
def test_a_redirect_to_nowhere_is_refused(server: FeedServer, shown: Identity, to: str | None):
    server.answers(says(302) if to is None else says(302, Location=to))
    refused(feed(server, shown.ca), Fault.REDIRECT, "sends on to")
    assert len(server.asked) == 1


def test_redirects_without_end_end(server: FeedServer, shown: Identity):
    server.answers(says(302, Location="/other.csv"))
    server.answers(says(302, Location="/prices.csv"), path="/other.csv")
    refused(feed(server, shown.ca), Fault.REDIRECT, "sent on more than 3 times")
    assert len(server.asked) == 4


def test_a_host_that_is_not_on_the_list_is_not_asked(server: FeedServer, shown: Identity):
    for hosts in (frozenset(), frozenset({"localhost"}), frozenset({"example.com"})):
        with pytest.raises(FileError, match=r"market\.hosts"):
            feed(server, shown.ca, hosts=hosts)


@pytest.mark.parametrize(
    "url",
    ["http://example.com/a.csv", "ftp://example.com/a.csv", "https://u:p@example.com/a", "x", ""],
)
def test_nor_is_one_without_tls(server: FeedServer, url: str):
    with pytest.raises(FileError, match="an https:// URL"):
        HttpFeed(name="a", market=Market.RESALE, url=url, hosts=frozenset({"example.com", ""}))


def test_this_machine_may_be_asked_without_tls(shown: Identity):
    plain = FeedServer(None)
    try:
        plain.answers(gives(TABLE))
        assert isinstance(fetch(feed(plain, shown.ca)), Fetched)
    finally:
        plain.stop()


def test_a_certificate_that_does_not_hold_is_refused_at_once(tmp_path: Path, shown: Identity):
    strange = identity(tmp_path, label="strange")
    over = identity(tmp_path, label="over", days=-1)
    wrong = identity(tmp_path, label="wrong", name="example.com")
    for presented, ca in (
        (strange, shown.ca),  # an authority that nobody trusts
        (over, over.ca),
        (wrong, wrong.ca),
        (shown, None),  # the public authorities know nothing of ours
    ):
        server = FeedServer(presented)
        try:
            server.answers(gives(TABLE))
            one = feed(server, shown.ca, own_ca=ca)
            refused(one, Fault.TLS, "its certificate does not hold")
            assert server.asked == []
        finally:
            server.stop()


def test_authorities_that_cannot_be_read_are_said(server: FeedServer, tmp_path: Path):
    (tmp_path / "ca.pem").write_text("nothing")
    for file in ("ca.pem", "none.pem"):
        refused(feed(server, tmp_path / file), Fault.TLS, "no certificates to trust")


def test_nobody_there_is_said(server: FeedServer, shown: Identity):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, and nobody listens
        place = f"localhost:{held.getsockname()[1]}"
        one = feed(server, shown.ca, url=f"https://{place}/a.csv", hosts=frozenset({place}))
        refused(one, Fault.UNREACHABLE, r"no answer \(ConnectError\); asked 4 times")


def test_what_is_no_http_is_said(server: FeedServer, shown: Identity):
    server.answers(lambda handler: handler.wfile.write(b"\x00\x01 good day \r\n\r\n"))
    refused(feed(server, shown.ca), Fault.UNREACHABLE, "RemoteProtocolError")


def test_no_proxy_of_the_environment_is_asked(
    server: FeedServer, shown: Identity, monkeypatch: pytest.MonkeyPatch
):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    server.answers(gives(TABLE))
    assert isinstance(fetch(feed(server, shown.ca)), Fetched)


def told(error: Exception) -> str:
    """All that a log can print of an error: with it every variable on the way."""
    out = io.StringIO()
    show = RichTracebackFormatter(show_locals=True, locals_max_string=10_000, width=200)
    show(out, (type(error), error, error.__traceback__))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    return plain + "".join(traceback.format_exception(error))


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text(TOKEN + "\n")
    return file


def test_a_token_goes_to_its_own_origin_alone(
    server: FeedServer, other: FeedServer, shown: Identity, token: Path
):
    server.answers(says(302, Location="/moved"))
    server.answers(says(302, Location=other.url()), path="/moved")
    other.answers(gives(TABLE))
    one = feed(server, shown.ca, hosts=frozenset({server.place(), other.place()}), token_file=token)
    assert isinstance(fetch(one), Fetched)
    assert [asked.headers.get("authorization") for asked in server.asked] == [f"Bearer {TOKEN}"] * 2
    assert ["authorization" in asked.headers for asked in other.asked] == [False]


@pytest.mark.parametrize(
    "trouble",
    [
        says(401),
        says(500),
        says(302, Location="https://example.com/"),
        gives(b"\xff"),
        pours([b'"']),
    ],
)
def test_a_token_is_in_no_error(server: FeedServer, shown: Identity, token: Path, trouble: Answer):
    server.answers(trouble)
    with pytest.raises((FeedUnavailable, FeedMalformed)) as caught:
        fetch(feed(server, shown.ca, token_file=token))
    assert server.asked[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert TOKEN not in told(caught.value)
    assert TOKEN not in repr(feed(server, shown.ca, token_file=token))


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (TOKEN, 0o604, "others may read this token"),
        (TOKEN, 0o620, "others may read this token"),
        ("", 0o600, "one line is expected"),
        (f"{TOKEN}\nlines", 0o600, "one line is expected"),
        (f"{TOKEN}\r\nX-Injected: b", 0o600, "one line is expected"),
        (f"{TOKEN}é", 0o600, "one line is expected"),
        ("a" * 9_000, 0o600, "one line is expected"),
    ],
)
def test_a_token_that_others_may_read_or_that_is_none_is_not_sent(
    server: FeedServer, token: Path, content: str, mode: int, words: str
):
    assert server.shown is not None
    token.write_text(content)
    token.chmod(mode)
    error = refused(feed(server, server.shown.ca, token_file=token), Fault.TOKEN, words)
    assert TOKEN not in told(error)
    assert server.asked == []


def test_a_token_that_is_not_there_is_said(server: FeedServer, shown: Identity, tmp_path: Path):
    refused(feed(server, shown.ca, token_file=tmp_path / "none"), Fault.TOKEN, "cannot read")
    refused(feed(server, shown.ca, token_file=tmp_path), Fault.TOKEN, "cannot read")
    assert server.asked == []


def test_validators_that_nobody_should_send_back_are_not_kept(server: FeedServer, shown: Identity):
    server.answers(gives(TABLE, ETag="x" * 300, Last_Modified="\x01"))
    found = fetch(feed(server, shown.ca))
    assert isinstance(found, Fetched)
    assert (found.etag, found.last_modified) == (None, None)


def test_a_header_alone_is_a_table_without_rows(server: FeedServer, shown: Identity):
    server.answers(gives(RENTAL_HEAD.encode()))
    found = fetch(feed(server, shown.ca))
    assert isinstance(found, Fetched)
    assert found.rows == ()
