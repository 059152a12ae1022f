"""A TPM that is a program, swtpm, and a made-up maker that certifies it.

It speaks as a TPM does, and protects nothing: whoever has its folder has its keys. A valuer's policy
must name its maker before it counts for anything, and everything it vouches for is called simulated.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID, ObjectIdentifier

from assay_agent.tpm.commands import Commands
from assay_agent.tpm.device import Address
from assay_agent.tpm.machine import ENDORSEMENT_CERTIFICATE, Tpm
from assay_agent.tpm.wire import NO_PASSWORD, sized, u16, u32
from assay_core.errors import AssayError
from assay_core.evidence import tpm

MANUFACTURER: Final = "id:00001014"
"""IBM's, who wrote the program: TCG's registry of TPM vendors."""
MODEL: Final = "swtpm"
VERSION: Final = "id:20191023"
_TCG_EK_CERTIFICATE: Final = ObjectIdentifier("2.23.133.8.1")
_ATTRIBUTES: Final[Mapping[ObjectIdentifier, str]] = {
    ObjectIdentifier("2.23.133.2.1"): MANUFACTURER,
    ObjectIdentifier("2.23.133.2.2"): MODEL,
    ObjectIdentifier("2.23.133.2.3"): VERSION,
}
_BEGINNING: Final = datetime(2020, 1, 1, tzinfo=UTC)
_END: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""RFC 5280 §4.1.2.5: no end; what a TPM's maker writes."""

_PLATFORM: Final = 0x4000000C
_SHUTDOWN: Final = 0x145
_NV_DEFINE_SPACE: Final = 0x12A
_NV_WRITE: Final = 0x137
_CERTIFICATE_INDEX: Final = 0x42072001
"""What TCG's EK profile, §2.2.1.5, gives the index: written by the platform, read by everyone."""
_PADDING: Final = b"\xff" * 64
"""Indices are made before the certificate is known, and larger."""
_NV_PART_BYTES: Final = 512
_START_S: Final = 20.0


class SimulatedTpmError(AssayError):
    """The program does not run; the message says what it said."""


class Maker:
    """A made-up maker of TPMs: a root, and the authority in between that signs certificates."""

    def __init__(self, name: str = "Simulated TPM") -> None:
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._root_name = _name(f"{name} Root")
        self._name = _name(f"{name} EK CA")
        self.root = self._authority(self._root_name, self._root_key, 1)
        """The certificate a valuer's policy names."""
        self.intermediate = self._authority(self._name, self._key, 0)

    def _authority(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, below: int
    ) -> x509.Certificate:
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        return (
            _builder(subject, self._root_name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=below), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(_key_id(self._root_key), critical=False)
            .sign(self._root_key, hashes.SHA256())
        )

    def certify(self, endorsement_key: bytes) -> bytes:
        """The certificate, DER, of an endorsement key (TPM2B_PUBLIC), after TCG's EK profile §3.2."""
        about = x509.Name([x509.NameAttribute(kind, is_) for kind, is_ in _ATTRIBUTES.items()])
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=True,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=False,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        return (
            _builder(x509.Name([]), self._name, tpm.public(endorsement_key).key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([_TCG_EK_CERTIFICATE]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DirectoryName(about)]), critical=True)
            .add_extension(_key_id(self._key), critical=False)
            .sign(self._key, hashes.SHA256())
            .public_bytes(serialization.Encoding.DER)
        )


class SimulatedTpm:
    """One swtpm: its state and its socket are in `folder`, whose path must be short."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.address = Address("unix", str(folder / "tpm.sock"))
        """Where it listens, as in the agent's configuration."""

    @property
    def pid(self) -> int:
        """The process's. Raises SimulatedTpmError where none runs."""
        if self._process is None:
            raise SimulatedTpmError("the simulated TPM does not run")
        return self._process.pid

    def start(self) -> None:
        """Switches it on, with the state it had, or a fresh one. Raises SimulatedTpmError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = Path(self.address.place)
        place.unlink(missing_ok=True)
        log = self._folder / "swtpm.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(  # noqa: S603 - a program that set-up found
                [
                    self._program,
                    *("socket", "--tpm2", "--tpmstate", f"dir={self._folder}"),
                    *("--server", f"type=unixio,path={place},mode=0600"),
                    *("--flags", "not-need-init,startup-clear"),
                ],
                stdout=out,
                stderr=out,
            )
        deadline_s = time.monotonic() + _START_S
        while not _listens(place):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.stop()
                said = log.read_text(errors="replace")[-500:]
                raise SimulatedTpmError(f"swtpm does not listen at {place}: {said}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Switches it off in an orderly way, as a host that shuts down does."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self.run(_SHUTDOWN, (), u16(0))
            self._process.terminate()
        self._process.wait()
        self._process = None

    def run(self, code: int, handles: tuple[int, ...], parameters: bytes) -> bytes:
        """One command of any kind, its first handle authorised by an empty password."""
        authorisations = (NO_PASSWORD,) if handles else ()
        transport = self.address.open()
        try:
            answer = Commands(transport).run(
                code, handles, parameters, authorisations=authorisations
            )
            return answer.parameters.rest()
        finally:
            transport.close()

    def manufacture(self, maker: Maker) -> bytes:
        """Puts the maker's certificate where a TPM has it. Returns the certificate, DER."""
        certificate = maker.certify(Tpm(self.address).endorsement_key())
        stored = certificate + _PADDING
        index = u32(ENDORSEMENT_CERTIFICATE)
        area = index + u16(tpm.SHA256) + u32(_CERTIFICATE_INDEX) + sized(b"") + u16(len(stored))
        self.run(_NV_DEFINE_SPACE, (_PLATFORM,), sized(b"") + sized(area))
        for at in range(0, len(stored), _NV_PART_BYTES):
            part = stored[at : at + _NV_PART_BYTES]
            self.run(_NV_WRITE, (_PLATFORM, ENDORSEMENT_CERTIFICATE), sized(part) + u16(at))
        return certificate


def _listens(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(place)) == 0


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_id(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGINNING)
        .not_valid_after(_END)
    )
