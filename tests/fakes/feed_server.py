"""A server of price feeds that truly listens, over TLS under an authority of its own."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Identity:
    """What a server shows, and the certificate that vouches for it; files, PEM."""

    chain: Path
    key: Path
    ca: Path


def identity(
    folder: Path, *, name: str = "localhost", label: str = "good", days: int = 1
) -> Identity:
    """A certificate for a name, or for 127.0.0.1, by a new authority. `days` < 0: one that is over."""
    now = dt.datetime.now(dt.UTC)
    begin, end = sorted((now - dt.timedelta(days=2), now + dt.timedelta(days=days)))
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"feeds' authority {label}")])

    def build(
        subject: x509.Name, public: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
        )
        for extension in extensions:
            critical = isinstance(extension, x509.BasicConstraints)
            builder = builder.add_extension(extension, critical)
        return builder.sign(ca_key, hashes.SHA256())

    identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    ca = build(issuer, ca_key.public_key(), x509.BasicConstraints(True, None), identifier)
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    if name == "localhost":
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    leaf = build(
        x509.Name([]),
        key.public_key(),
        x509.BasicConstraints(False, None),
        x509.SubjectAlternativeName(names),
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
    )
    made = Identity(*(folder / f"{label}.{part}" for part in ("crt", "key", "ca")))
    made.chain.write_bytes(leaf.public_bytes(Encoding.PEM))
    made.ca.write_bytes(ca.public_bytes(Encoding.PEM))
    made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]


Answer = Callable[[BaseHTTPRequestHandler], None]


class FeedServer:
    """Answers by a script: `script[path]` in turn, the last one for ever. `over`: set to end waits."""

    def __init__(self, shown: Identity | None, host: str = "127.0.0.1") -> None:
        self.shown = shown
        self.asked: list[Asked] = []
        self.script: dict[str, list[Answer]] = {}
        self.over = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                owner.asked.append(Asked(self.path, headers))
                answers = owner.script[self.path]
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                self.close_connection = True
                with contextlib.suppress(OSError):  # who asked has had enough
                    answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a handshake that the client broke off

        self.server = Server((host, 0), Handler)
        self.port: int = self.server.server_port
        self.scheme = "http"
        if shown is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(shown.chain, shown.key)
            # The handshake is the handler thread's, so that one client cannot hold up another.
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.scheme = "https"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def place(self, name: str = "localhost") -> str:
        return f"{name}:{self.port}"

    def url(self, path: str = "/prices.csv", name: str = "localhost") -> str:
        return f"{self.scheme}://{self.place(name)}{path}"

    def answers(self, *answers: Answer, path: str = "/prices.csv") -> None:
        self.script[path] = list(answers)

    def stop(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def gives(data: bytes, kind: str = "text/csv", status: int = 200, **headers: str) -> Answer:
    """A whole answer. Header names are written with underscores."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def says(status: int, **headers: str) -> Answer:
    """An answer without rows."""
    return gives(b"not what was asked for", "text/plain", status, **headers)


def unless_known(data: bytes, etag: str) -> Answer:
    """Data under an ETag; 304 to who has it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("If-None-Match") == etag:
            handler.send_response(304)
            handler.send_header("ETag", etag)
            handler.end_headers()
        else:
            gives(data, ETag=etag)(handler)

    return answer


def pours(parts: Iterable[bytes], **headers: str) -> Answer:
    """A body without a length, part by part, until nobody takes it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/csv")
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Connection", "close")
        handler.end_headers()
        for part in parts:
            handler.wfile.write(part)

    return answer
