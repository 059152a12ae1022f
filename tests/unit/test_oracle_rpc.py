"""The JSON-RPC client against answers that are slow, huge, broken, or worded by another node."""

from __future__ import annotations

import contextlib
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import zstandard

from assay_valuer.oracle.rpc import (
    REVERT_BYTES_MAX,
    CallReverted,
    ChainError,
    ChainMalformed,
    ChainRejected,
    ChainUnreachable,
    JsonRpc,
)

TO = "0x5FbDB2315678afecb367f032d93F642f64180aa3"


@contextmanager
def node(
    answer: Callable[[dict[str, object]], bytes], status: int = 200, encoding: str | None = None
) -> Iterator[str]:
    """A server that answers every request with what `answer` makes of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = answer(request)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if encoding is not None:
                self.send_header("Content-Encoding", encoding)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # the client was tired of waiting
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v2/s3cr3t"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def result(value: object) -> Callable[[dict[str, object]], bytes]:
    return lambda request: json.dumps(
        {"jsonrpc": "2.0", "id": request["id"], "result": value}
    ).encode()


def fault(**error: object) -> Callable[[dict[str, object]], bytes]:
    return lambda request: json.dumps(
        {"jsonrpc": "2.0", "id": request["id"], "error": error}
    ).encode()


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>", b"[]", b'"0x1"', b"null", b'{"result": 5}', b'{"result": "zz"}', b"{}"),
        *(b'{"result": "-0x1"}', b'{"result": "0x_1"}', b'{"result": "1"}', b'{"result": "0x"}'),
        b'{"result": "0x1' + b"0" * 64 + b'"}',
        b'{"result": ' + b"[" * 100_000,
        b'{"error": {"message": "\xff"}}',
        b'{"error": {"message": "", "data": "\xff"}, "more": ' + b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_not_a_node_is_said_to_be_none(body):
    with node(lambda _request: body) as url, pytest.raises(ChainMalformed):
        JsonRpc(url).chain_id()


@pytest.mark.parametrize(
    "reply",
    [
        {"number": "0x1"},
        {"number": "0x1", "hash": "ab", "timestamp": "0x1"},
        {"number": "one", "hash": "0xab", "timestamp": "0x1"},
        5,
    ],
    ids=str,
)
def test_a_block_with_members_missing_or_mistyped(reply):
    with node(result(reply)) as url, pytest.raises(ChainMalformed):
        JsonRpc(url).block("latest")


def test_what_a_chain_does_not_have_is_none():
    with node(result(None)) as url:
        rpc = JsonRpc(url)
        assert rpc.block(10**9) is None
        assert rpc.receipt(bytes(32)) is None
        assert not rpc.knows(bytes(32))


def test_an_answer_without_end_is_cut():
    with node(result("0x" + "00" * 1000)) as url, pytest.raises(ChainMalformed, match="above"):
        JsonRpc(url, response_bytes_max=1000).call(TO, b"")


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "deflate", "br"])
def test_a_packed_answer_is_not_unpacked(encoding):
    bomb = zstandard.compress(b'{"result": "0x1", "more": "' + bytes(64 * 1024 * 1024))
    tracemalloc.start()
    try:
        with (
            node(lambda _request: bomb, encoding=encoding) as url,
            pytest.raises(ChainMalformed, match="compressed"),
        ):
            JsonRpc(url).chain_id()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024 * 1024 + len(bomb)


def test_an_answer_that_drips_for_ever_is_given_up():
    with (
        node(result("0x" + "00" * 1000)) as url,
        pytest.raises(ChainUnreachable, match="no end"),
    ):
        JsonRpc(url, answer_s=-1.0).call(TO, b"")


@pytest.mark.parametrize("nonce", ["0x8000000000000000", "0x" + "f" * 64])
def test_a_count_that_no_chain_reaches_is_not_taken(nonce):
    with node(result(nonce)) as url, pytest.raises(ChainMalformed, match="count"):
        JsonRpc(url).nonce(TO)


def test_a_nodes_own_words_are_cut_and_steer_no_terminal():
    with (
        node(fault(code=-1, message="\x1b[2J\u202e\n" + "x" * 100_000)) as url,
        pytest.raises(ChainRejected) as caught,
    ):
        JsonRpc(url).chain_id()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    with (
        node(fault(code=3, message="", data="0x" + "00" * 100_000)) as url,
        pytest.raises(CallReverted) as reverted,
    ):
        JsonRpc(url).call(TO, b"")
    assert len(reverted.value.data) == REVERT_BYTES_MAX


def test_a_node_that_does_not_answer_in_time():
    free = threading.Event()

    def late(_request: dict[str, object]) -> bytes:
        free.wait(30)
        return b"{}"

    with node(late) as url:
        try:
            with pytest.raises(ChainUnreachable):
                JsonRpc(url, timeout_s=0.2).chain_id()
        finally:
            free.set()


@pytest.mark.parametrize("status", [500, 502, 404, 301])
def test_a_status_that_is_not_an_answer(status):
    with node(lambda _request: b"<html>", status) as url, pytest.raises(ChainError):
        JsonRpc(url).chain_id()


# The same revert as geth and anvil, hardhat, and ganache word it.
REVERT = "0x515df61600000000"


@pytest.mark.parametrize(
    ("error", "data"),
    [
        ({"code": 3, "message": "execution reverted", "data": REVERT}, REVERT),
        ({"code": 3, "message": "execution reverted: custom error", "data": REVERT}, REVERT),
        ({"code": -32603, "message": "reverted with a custom error", "data": REVERT}, REVERT),
        ({"code": 3, "message": "execution reverted"}, "0x"),
        ({"code": -32000, "message": "execution reverted"}, "0x"),
    ],
    ids=str,
)
def test_a_revert_is_known_as_one_however_it_is_worded(error, data):
    with node(fault(**error)) as url, pytest.raises(CallReverted) as caught:
        JsonRpc(url).call(TO, b"")
    assert caught.value.data == bytes.fromhex(data[2:])


@pytest.mark.parametrize(
    "error",
    [
        {"code": -32000, "message": "nonce too low"},
        {"code": -32003, "message": "transaction already imported"},
        {"code": -32000, "message": "replacement transaction underpriced", "data": {"x": 1}},
    ],
    ids=str,
)
def test_a_refusal_keeps_the_nodes_own_words(error):
    with node(fault(**error)) as url, pytest.raises(ChainRejected) as caught:
        JsonRpc(url).send_raw(b"\x02")
    assert caught.value.message == error["message"]
    assert caught.value.code == error["code"]


def test_no_error_repeats_the_key_in_an_endpoints_address():
    with node(lambda _request: b"nonsense") as url:
        with pytest.raises(ChainMalformed) as malformed:
            JsonRpc(url).chain_id()
        shown = repr(JsonRpc(url))
    with pytest.raises(ChainUnreachable) as gone:
        JsonRpc(url, timeout_s=2).chain_id()
    for text in (str(malformed.value), str(gone.value), shown, repr(gone.value.__cause__)):
        assert "s3cr3t" not in text


@pytest.mark.parametrize("url", ["", "ftp://x", "127.0.0.1:8545", "http://"])
def test_an_endpoint_is_a_url(url):
    with pytest.raises(ChainError, match="URL"):
        JsonRpc(url)
