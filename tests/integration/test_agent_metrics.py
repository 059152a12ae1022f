"""The metrics port as others meet it: plain sockets, TLS with and without certificates, and a real
Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import http.client
import itertools
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from assay_agent.config import MetricsConfig, TlsConfig
from assay_agent.metrics import AgentMetrics
from assay_agent.metrics import server as server_module
from assay_core.errors import FileError, ServiceError
from assay_core.header import Source
from tests.fakes.prometheus import Prometheus
from tests.unit.test_agent_metrics import A, B, draft, poll, values


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def serving(settings: MetricsConfig) -> Iterator[AgentMetrics]:
    """The metrics of two GPUs, served from an event loop of their own."""
    metrics = AgentMetrics(Source.NVML, settings)
    metrics.take(poll((A, values()), (B, values())))
    ready, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        server = await metrics.serve()
        loops.append(asyncio.get_running_loop())
        ready.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(20)
    try:
        yield metrics
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(20)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def plain(port: int) -> Iterator[AgentMetrics]:
    with serving(MetricsConfig(listen=f"127.0.0.1:{port}")) as metrics:
        yield metrics


def ask(port: int, request: bytes, *, end: bool = False) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        if end:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer


def get(port: int, accept: str = "") -> tuple[str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/metrics", headers={"Accept": accept})
    answer = connection.getresponse()
    assert answer.status == 200
    return answer.headers["Content-Type"], answer.read().decode()


def test_both_formats_are_served(plain, port):
    kind, text = get(port)
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE assay_agent_polls_total counter\n" in text
    kind, text = get(port, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert "# TYPE assay_agent_polls counter\n" in text
    assert text.endswith("# EOF\n")


def test_old_callers_get_it_without_chunks(plain, port):
    head, _, body = ask(port, b"GET /metrics HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body.startswith(b"# HELP ")
    assert ask(port, b"HEAD /metrics HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../etc HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 1\r\n\r\n", b"405"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/9\r\n\r\n", b"400"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\xff\x00\r\n\r\n", b"400"),
        (b"", b"400"),
        (b"GET /metrics HTTP/1.1\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 9_000, b"400"),
    ],
)
def test_what_is_no_request_is_refused(plain, port, request_bytes, status):
    assert ask(port, request_bytes, end=True).split(b" ")[1] == status


def test_a_caller_that_says_nothing_is_let_go_and_others_are_served(plain, port):
    quiet = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    get(port)
    for connection in quiet:
        connection.settimeout(20)
        assert connection.recv(1) == b"", "it is closed after a while"
        connection.close()


def test_there_is_a_bound_on_callers(plain, port):
    quiet = [
        socket.create_connection(("127.0.0.1", port)) for _ in range(server_module.CONNECTIONS_MAX)
    ]
    try:
        for connection in quiet:
            connection.sendall(b"GET")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as late:
            assert late.recv(1) == b""
        quiet[0].sendall(b" / HTTP/1.1\r\n\r\n")
        quiet[0].settimeout(20)
        assert quiet[0].recv(12) == b"HTTP/1.1 404", "those that came first are still answered"
    finally:
        for connection in quiet:
            connection.close()
    deadline_s = time.monotonic() + 20
    while True:  # and room again once they are gone
        with contextlib.suppress(http.client.HTTPException, OSError):
            get(port)
            return
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.parametrize("size", [1_000, 64 * 1024 * 1024], ids=["small", "large"])
def test_who_never_reads_the_answer_keeps_no_descriptor(port, size):
    """Any user of the host could take them all, and with them the agent's own files."""

    def pages(*, openmetrics: bool) -> Iterator[str]:
        yield from ("x" * 65_536 for _ in range(size // 65_536 + 1))

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def run() -> None:
        settings = MetricsConfig(listen=f"127.0.0.1:{port}")
        server = server_module.Server(settings, pages, answer_s=0.2, close_s=0.2)
        async with await server.start():
            before = descriptors()
            for _ in range(2 * server_module.CONNECTIONS_MAX):
                with socket.socket() as mute:
                    mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                    mute.connect(("127.0.0.1", port))
                    mute.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                    await asyncio.sleep(0)
                    held = mute.dup()
                callers.append(held)
                while len(callers) % server_module.CONNECTIONS_MAX == 0:
                    if descriptors() <= before + len(callers):
                        break
                    assert time.monotonic() < deadline_s, "the server holds on"
                    await asyncio.sleep(0.02)

    callers: list[socket.socket] = []
    deadline_s = time.monotonic() + 20
    try:
        asyncio.run(run())
    finally:
        for caller in callers:
            caller.close()


def test_callers_in_a_loop_get_a_page_at_a_time(port):
    """The pages begin apart from each other, by the loop's own clock."""
    begun: list[float] = []

    def pages(*, openmetrics: bool) -> Iterator[str]:
        begun.append(time.monotonic())
        yield "x\n"

    async def call() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert (await reader.read()).endswith(b"x\n")
        writer.close()

    async def run() -> None:
        server = server_module.Server(MetricsConfig(listen=f"127.0.0.1:{port}"), pages)
        async with await server.start():
            await asyncio.gather(*(call() for _ in range(4)))

    asyncio.run(run())
    apart = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert len(apart) == 3
    assert min(apart) >= server_module.SPACING_S / 2


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("0.0.0.0:9464", "not a loopback address"),
        ("192.0.2.1:9464", "metrics.tls"),
        ("[::]:9464", "not a loopback address"),
        ("gpu-host.example:9464", "not a loopback address"),
        (":9464", "not address:port"),
        ("9464", "not address:port"),
        ("127.0.0.1:http", "not address:port"),
        ("127.0.0.1:70000", "not address:port"),
    ],
)
def test_an_address_that_does_not_hold_is_refused_at_start(listen, said):
    metrics = AgentMetrics(Source.NVML, MetricsConfig(listen=listen))
    with pytest.raises(FileError, match=said):
        asyncio.run(metrics.serve())


def test_a_port_that_is_taken_is_the_services_fault(plain, port):
    metrics = AgentMetrics(Source.NVML, MetricsConfig(listen=f"127.0.0.1:{port}"))
    with pytest.raises(ServiceError, match="cannot be used"):
        asyncio.run(metrics.serve())


def test_no_address_is_no_port():
    assert asyncio.run(AgentMetrics(Source.NVML, MetricsConfig(listen=None)).serve()) is None


# --------------------------------------------------------------------------------------------- TLS


class Authority:
    """Certificates for a test, written to files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA {folder.name}")])
        folder.mkdir()
        self.certificate = self._certificate(self.name, self.key, authority=True)
        self.pem = self._write("ca.pem", self.certificate)

    def issue(self, name: str) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._write(f"{name}.pem", self._certificate(subject, key))
        path = self.folder / f"{name}.key"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, str(path)

    def _certificate(self, subject, key, *, authority: bool = False) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        hour = dt.timedelta(hours=1)
        local = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - hour)
            .not_valid_after(now + hour)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(local, critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def _write(self, name: str, certificate: x509.Certificate) -> str:
        path = self.folder / name
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return str(path)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def tls(authority: Authority, port: int, *, client_ca: str | None = None) -> MetricsConfig:
    certificate, key = authority.issue("server")
    return MetricsConfig(
        listen=f"127.0.0.1:{port}",
        tls=TlsConfig(certificate=certificate, key=key, client_ca=client_ca),
    )


def fetch(port: int, context: ssl.SSLContext) -> bytes:
    with urllib.request.urlopen(
        f"https://localhost:{port}/metrics", context=context, timeout=20
    ) as answer:
        return answer.read()


def test_over_tls(authority, port):
    context = ssl.create_default_context(cafile=authority.pem)
    with serving(tls(authority, port)) as metrics:
        text = fetch(port, context)
        assert text.startswith(b"# HELP ")
        assert text.count(b"\n") == "".join(metrics.pages(openmetrics=False)).count("\n")
        assert ask(port, b"GET /metrics HTTP/1.1\r\n\r\n").find(b"assay") == -1, "not in the clear"
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            fetch(port, ssl.create_default_context())
        assert fetch(port, context), "a caller that hangs up does no harm"


def test_clients_need_a_certificate_of_the_authority_that_is_named(authority, tmp_path, port):
    with serving(tls(authority, port, client_ca=authority.pem)):
        context = ssl.create_default_context(cafile=authority.pem)
        with pytest.raises(OSError, match=r"(?i)certificate.required|reset|closed|EOF"):
            fetch(port, context)
        context.load_cert_chain(*Authority(tmp_path / "other").issue("stranger"))
        with pytest.raises(OSError, match=r"(?i)unknown.ca|reset|closed|EOF"):
            fetch(port, context)
        context = ssl.create_default_context(cafile=authority.pem)
        context.load_cert_chain(*authority.issue("prometheus"))
        assert b"assay_gpu_temperature_celsius" in fetch(port, context)


def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(authority, port):
    settings = tls(authority, port)
    context = ssl.create_default_context(cafile=authority.pem)
    context.check_hostname = True
    with serving(settings):
        fetch(port, context)
        first = ssl.get_server_certificate(("localhost", port), ca_certs=authority.pem)
        authority.issue("server")
        second = ssl.get_server_certificate(("localhost", port), ca_certs=authority.pem)
        assert first != second
        Path(settings.tls.certificate).write_text("half a certi")
        third = ssl.get_server_certificate(("localhost", port), ca_certs=authority.pem)
        assert third == second


@pytest.mark.parametrize("broken", ["certificate", "key", "client_ca"])
def test_files_that_do_not_hold_are_refused_at_start(authority, tmp_path, port, broken):
    certificate, key = authority.issue("server")
    files = {"certificate": certificate, "key": key, "client_ca": authority.pem}
    for wrong in (str(tmp_path / "none.pem"), str(tmp_path / "empty.pem")):
        (tmp_path / "empty.pem").write_text("")
        metrics = AgentMetrics(
            Source.NVML,
            MetricsConfig(listen=f"0.0.0.0:{port}", tls=TlsConfig(**(files | {broken: wrong}))),
        )
        with pytest.raises(FileError, match=r"metrics\.tls"):
            asyncio.run(metrics.serve())


# -------------------------------------------------------------------------------------- Prometheus


@pytest.mark.parametrize("secured", [False, True])
def test_a_real_prometheus_takes_it_all(requires_tool, authority, tmp_path, port, secured):
    program = requires_tool("prometheus")
    settings = MetricsConfig(listen=f"127.0.0.1:{port}")
    job: dict[str, object] = {
        "static_configs": [{"targets": [f"localhost:{port}" if secured else f"127.0.0.1:{port}"]}],
    }
    if secured:
        settings = tls(authority, port, client_ca=authority.pem)
        certificate, key = authority.issue("prometheus")
        job |= {
            "scheme": "https",
            "tls_config": {"ca_file": authority.pem, "cert_file": certificate, "key_file": key},
        }
    with serving(settings) as metrics:
        metrics.sealed_window(draft(A))
        config = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [{"job_name": "assay-agent", **job}],
        }
        prometheus = Prometheus(program, tmp_path / "prometheus", config)
        try:
            prometheus.eventually('assay_gpu_temperature_celsius{job="assay-agent"}')
            assert prometheus.query("up")[0]["value"][1] == "1"
            (scraped,) = prometheus.query("scrape_samples_scraped")
            lines = "".join(metrics.pages(openmetrics=False)).splitlines()
            own = [line for line in lines if not line.startswith("#")]
            assert int(scraped["value"][1]) == len(own)
        finally:
            prometheus.close()
