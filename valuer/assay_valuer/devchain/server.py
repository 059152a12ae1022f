"""The JSON-RPC server: HTTP on loopback, one request at a time."""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from assay_valuer.devchain.evm import Evm
from assay_valuer.devchain.rpc import (
    INVALID_REQUEST,
    PARSE_ERROR,
    REJECTED,
    Json,
    RpcFault,
    answer,
)

REQUEST_BYTES_MAX: Final = 1024 * 1024
_LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


class DevChainServer(ThreadingHTTPServer):
    """Serves one EVM. Refuses any address that is not loopback: everybody knows its keys."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"{host} is not a loopback address; this chain is for one machine")
        self.evm = Evm()
        self.lock = threading.Lock()  # held for the whole of a request: the EVM is one thread's
        super().__init__((host, port), _Handler)

    @property
    def port(self) -> int:
        """The port listened on, also when 0 was asked for."""
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    # An answer leaves in one piece and at once: in two, each would wait 40 ms for the other's ACK.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: DevChainServer

    def do_POST(self) -> None:
        """One JSON-RPC request or a batch of them."""
        # A page in a browser may resolve its own name to loopback; its Host header says so.
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in _LOOPBACK_NAMES:
            self.send_error(403)
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > REQUEST_BYTES_MAX:
            self.close_connection = True
            self.send_error(413)
            return
        body = json.dumps(self._answer_all(self.rfile.read(int(length)))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer_all(self, body: bytes) -> Json:
        try:
            request: Json = json.loads(body)
        except ValueError:
            return _error(None, RpcFault(PARSE_ERROR, "parse error"))
        if isinstance(request, list):
            return [self._answer(one) for one in request]
        return self._answer(request)

    def _answer(self, request: Json) -> Json:
        if not isinstance(request, Mapping):
            return _error(None, RpcFault(INVALID_REQUEST, "invalid request"))
        number, method, params = request.get("id"), request.get("method"), request.get("params", [])
        if (
            not isinstance(method, str)
            or isinstance(params, str)
            or not isinstance(params, Sequence)
        ):
            return _error(number, RpcFault(INVALID_REQUEST, "invalid request"))
        try:
            with self.server.lock:
                result = answer(self.server.evm, method, params)
        except RpcFault as fault:
            return _error(number, fault)
        except Exception as error:  # noqa: BLE001  # a node answers; it does not drop the connection
            return _error(number, RpcFault(REJECTED, f"internal error: {error!r}"))
        return {"jsonrpc": "2.0", "id": number, "result": result}

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Nothing: a request is not worth a line."""


def _error(number: Json, fault: RpcFault) -> Json:
    error: dict[str, Json] = {"code": fault.code, "message": fault.message}
    if fault.data is not None:
        error["data"] = fault.data
    return {"jsonrpc": "2.0", "id": number, "error": error}
