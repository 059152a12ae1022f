"""What `assay-agent check` finds, one thing at a time."""

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from assay_agent.cli import check
from assay_agent.keys import SEALING, Host, KeyStore
from assay_agent.pem import new_sealing_key, new_tls_key
from assay_agent.telemetry import diagnosis, diagnosis_gpus
from assay_agent.telemetry.diagnosis import Finding, State
from assay_agent.telemetry.reading import GpuReading, Poll, Sample
from assay_core.leaves import DriverState, Reason
from assay_proto.v1 import attestation_pb2 as pb
from assay_proto.v1.attestation_pb2_grpc import (
    AttestationServicer,
    add_AttestationServicer_to_server,
)

NOW_MS = 1_790_000_000_000
DAY_MS = 86_400_000


def poll(
    driver: DriverState = DriverState.RUNNING,
    why: Reason | None = None,
    gpus: tuple[GpuReading, ...] = (),
) -> Poll:
    host: dict[str, Sample] = {"driver_version": "590", "nvml_version": "13", "gpu_count": 1}
    return Poll(
        at_utc_ms=NOW_MS,
        at_boottime_ms=0,
        driver=driver,
        host=host if why is None else dict.fromkeys(host, why),
        abandoned_processes=0,
        gpus=gpus,
        events=(),
    )


GPU = GpuReading(b"g" * 16, {"name": "x", "serial": "1"})


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (poll(DriverState.UNRESPONSIVE, Reason.DRIVER_UNRESPONSIVE), "did not return in time"),
        (poll(DriverState.ABSENT, Reason.NO_PERMISSION), "does not let this user in"),
        (poll(DriverState.ABSENT, Reason.DRIVER_ABSENT), "module nvidia is not loaded"),
    ],
)
def test_a_driver_that_does_not_answer(seen: Poll, said: str, tmp_path: Path) -> None:
    finding = diagnosis.driver(seen, tmp_path / "version")
    assert finding.state is State.FAILED
    assert said in finding.what
    assert finding.fix


def test_a_module_of_another_version_than_the_library(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("NVRM version: 590")
    finding = diagnosis.driver(poll(DriverState.ABSENT, Reason.DRIVER_ERROR), tmp_path / "version")
    assert "different versions" in finding.fix


def test_a_driver_that_answers() -> None:
    assert diagnosis.driver(poll()).state is State.OK


@pytest.mark.parametrize(
    ("seen", "state", "said"),
    [
        (poll(gpus=(GPU,)), State.OK, "1 read"),
        (poll(), State.FAILED, "0 of 1 can be read"),
        (
            poll(gpus=(GpuReading(b"g" * 16, {"name": Reason.GPU_LOST}),)),
            State.FAILED,
            "0 of 1 can be read",
        ),
        (
            poll(gpus=(GpuReading(b"g" * 16, {"name": "x", "serial": Reason.NO_PERMISSION}),)),
            State.WARNING,
            "may not read serial",
        ),
        (poll(DriverState.ABSENT, Reason.DRIVER_ABSENT), State.FAILED, "not counted"),
    ],
)
def test_gpus(seen: Poll, state: State, said: str) -> None:
    finding = diagnosis_gpus.gpus(seen)
    assert (finding.state, said in finding.what) == (state, True), finding


def test_device_files(tmp_path: Path) -> None:
    assert diagnosis.devices(tmp_path).state is State.WARNING
    for name in ("nvidiactl", "nvidia0", "nvidia1"):
        (tmp_path / name).touch()
    finding = diagnosis.devices(tmp_path)
    assert (finding.state, finding.what) == (State.OK, "2 GPUs' files can be opened")


def test_device_files_of_another_user(tmp_path: Path) -> None:
    """Root may open everything: a dangling link is what even root cannot."""
    (tmp_path / "nvidiactl").touch()
    (tmp_path / "nvidia0").symlink_to(tmp_path / "gone")
    finding = diagnosis.devices(tmp_path)
    assert finding.state is State.FAILED
    assert str(tmp_path / "nvidia0") in finding.what


def test_the_clock_is_looked_at() -> None:
    finding = diagnosis.clock()
    assert finding.about == "clock"
    assert finding.state in (State.OK, State.WARNING)
    assert finding.what


class Authority:
    """A certificate authority, and certificates of any age."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self.certificate = self._sign(self.name, self.key.public_key(), 0, 2**42, ca=True)

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, key_pem: bytes, from_ms: int, to_ms: int) -> bytes:
        key = serialization.load_pem_private_key(key_pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        certificate = self._sign(name, key.public_key(), from_ms, to_ms, ca=False)
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, from_ms: int, to_ms: int, *, ca: bool
    ) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(dt.datetime.fromtimestamp(from_ms / 1000, dt.UTC))
            .not_valid_after(dt.datetime.fromtimestamp(to_ms / 1000, dt.UTC))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(self.key, hashes.SHA256())
        )


AUTHORITY = Authority()


def enrolled(folder: Path, from_ms: int, to_ms: int, port: int = 1) -> KeyStore:
    """The files of a host that was enrolled."""
    keys = KeyStore(folder / "state")
    keys.prepare()
    keys.write(SEALING, new_sealing_key())
    key_pem = new_tls_key()
    keys.store_tls(key_pem, AUTHORITY.issue(key_pem, from_ms, to_ms), AUTHORITY.pem())
    keys.store_host(
        Host(
            host_id="spiffe://assay.test/host/1",
            incarnation=0,
            previous_head_hash="",
            enrollment_endpoint="localhost:1",
            attestation_endpoint=f"localhost:{port}",
            schema_max=1,
        )
    )
    return keys


@pytest.mark.parametrize(
    ("age_ms", "left_ms", "state", "said"),
    [
        (1 * DAY_MS, 6 * DAY_MS, State.OK, "1.0 d old"),
        (5 * DAY_MS, 2 * DAY_MS, State.WARNING, "due for renewal"),
        (9 * DAY_MS, -2 * DAY_MS, State.FAILED, "expired at"),
        (-1 * DAY_MS, 6 * DAY_MS, State.FAILED, "clock is behind"),
    ],
)
def test_certificate_age(
    tmp_path: Path, age_ms: int, left_ms: int, state: State, said: str
) -> None:
    keys = enrolled(tmp_path, NOW_MS - age_ms, NOW_MS + left_ms)
    assert check.enrolment(keys).state is State.OK
    finding = check.certificate(keys, NOW_MS)
    assert (finding.state, said in finding.what) == (state, True), finding
    assert finding.state is State.OK or finding.fix


class Valuer(AttestationServicer):
    """Says Welcome, with a clock of its own."""

    def __init__(self, ahead_ms: int) -> None:
        self.ahead_ms = ahead_ms

    async def Stream(
        self, request_iterator: AsyncIterator[pb.AgentMessage], context: object
    ) -> AsyncIterator[pb.ValuerMessage]:
        async for message in request_iterator:
            assert message.hello.incarnation == 0
            now_ms = time.time_ns() // 1_000_000 + self.ahead_ms
            yield pb.ValuerMessage(welcome=pb.Welcome(now_ms=now_ms))


def looked_at(tmp_path: Path, valuer: Valuer, *, running: bool = False) -> list[Finding]:
    """What is found of a valuer that listens, and then of the same one gone."""
    key_pem = new_tls_key()
    credentials = grpc.ssl_server_credentials(
        [(key_pem, AUTHORITY.issue(key_pem, 0, 2**42))], AUTHORITY.pem(), require_client_auth=True
    )

    async def reached() -> list[Finding]:
        server = grpc.aio.server()
        add_AttestationServicer_to_server(valuer, server)
        port = server.add_secure_port("localhost:0", credentials)
        await server.start()
        keys = enrolled(tmp_path, 0, 2**42, port)
        if running:
            (keys.state_dir / check.CONTROL_SOCKET).touch()
        there = await check.valuer(keys, None, timeout_s=30)
        await server.stop(None)
        return [*there, *await check.valuer(keys, None, timeout_s=0.5)]

    return asyncio.run(reached())


@pytest.mark.parametrize(
    ("ahead_ms", "state", "said"),
    [
        (0, State.OK, ""),
        (-7_200_000, State.FAILED, "2.0 h ahead"),
        (7_200_000, State.WARNING, "2.0 h behind"),
    ],
)
def test_a_valuer_and_its_clock(tmp_path: Path, ahead_ms: int, state: State, said: str) -> None:
    there, clock, gone = looked_at(tmp_path, Valuer(ahead_ms))
    assert there.state is State.OK, there
    assert clock.state is state, clock
    assert said in clock.what
    assert gone.state is State.FAILED
    assert "no TLS connection" in gone.what


def test_the_stream_of_a_running_agent_is_not_disturbed(tmp_path: Path) -> None:
    there, gone = looked_at(tmp_path, Valuer(0), running=True)
    assert (there.state, gone.state) == (State.OK, State.FAILED)
