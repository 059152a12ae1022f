"""The host's keys and certificates, in files that only the agent's user may read.

In the state directory (0700), each file 0600 and written whole or not at all:

    sealing.key       Ed25519, PKCS#8 PEM: what a window's signature means. May come instead from
                      systemd's LoadCredential=, as $CREDENTIALS_DIRECTORY/sealing.key.
    tpm.json          in its place, where the sealing key lives in the host's TPM: the TPM's keys as
                      it gives them out, of no use to any other machine.
    tls.pem           P-256 client key, then its certificate chain: one file, so that a crash never
                      leaves a key beside another key's certificate.
    authority.pem     what the valuer's listeners are checked against.
    host.json         who the valuer says this host is.
    enrolling.json    the enrolment statement and its new keys, kept until the reply is stored: a
                      lost reply is asked for again with the same bytes.
    switching.json    a whole enrolment that takes the place of what is here; see switch.py.
    rotating.json     a sealing key that takes the place of the one here; see rotation.py.
    previous.json     the sealing key before the last rotation: it declares gaps among the windows
                      that it sealed, and once they are taken nobody believes it.
"""

from __future__ import annotations

import base64
import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from assay_agent.config import AgentConfig, TpmConfig
from assay_agent.pem import join_tls, sealing_signer, to_pem
from assay_core.errors import HostError
from assay_core.seal import Ed25519Signer, Signer

if TYPE_CHECKING:
    from assay_agent.tpm.kept import HostTpm

SEALING: Final = "sealing.key"
TLS: Final = "tls.pem"
AUTHORITY: Final = "authority.pem"
HOST: Final = "host.json"
ENROLLING: Final = "enrolling.json"
SWITCHING: Final = "switching.json"
TPM: Final = "tpm.json"
ROTATING: Final = "rotating.json"
PREVIOUS: Final = "previous.json"

_T = TypeVar("_T")


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who the valuer says this host is, and where it listens."""

    host_id: str
    incarnation: int
    previous_head_hash: str
    """Hex; the old head that sequence 0 names. Empty: none."""
    enrollment_endpoint: str
    attestation_endpoint: str
    schema_max: int
    token_id: str = ""
    """With which token it enrolled: the same one again changes nothing."""


class TpmFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The host's keys in its TPM, as the TPM gives them out: TPM2B_PUBLIC and TPM2B_PRIVATE."""

    attestation_public: bytes
    attestation_private: bytes
    signing_public: bytes
    signing_private: bytes


class SealingKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A sealing key as it is kept: PKCS#8 PEM, or in the TPM; neither: systemd's credential."""

    pem: str = ""
    tpm: TpmFile | None = None


class Enrolling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An enrolment under way."""

    token_id: str
    statement: str
    """Base64 of its exact bytes."""
    tls_key_pem: str
    sealing_key_pem: str
    """Empty: the key is in the TPM, or systemd's credential."""
    tpm: TpmFile | None = None


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """The client key and certificates as gRPC takes them, PEM; validity in UTC milliseconds."""

    key_pem: bytes
    chain_pem: bytes
    authority_pem: bytes
    not_before_ms: int
    not_after_ms: int

    @property
    def renew_at_ms(self) -> int:
        """Half of its life: when a new certificate is due."""
        return (self.not_before_ms + self.not_after_ms) // 2


class KeyStore:
    """The files above."""

    def __init__(
        self, state_dir: Path, credentials_dir: Path | None = None, tpm: TpmConfig | None = None
    ) -> None:
        self._dir = state_dir
        self._credentials_dir = credentials_dir
        self.tpm_config = tpm
        """The TPM that new sealing keys are made in; None: in files."""

    @classmethod
    def default(cls, settings: AgentConfig) -> KeyStore:
        """The configured store, with systemd's credentials where there are any."""
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        directory = Path(credentials) if credentials else None
        return cls(Path(settings.state_dir), directory, settings.tpm)

    @property
    def state_dir(self) -> Path:
        """Where the files are."""
        return self._dir

    def prepare(self) -> None:
        """Makes the directory where there is none. Raises HostError where others may enter it."""
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = self._dir.stat().st_mode
        except OSError as error:
            raise HostError(f"state_dir {self._dir} cannot be made: {error.strerror}") from error
        if mode & 0o077:
            raise HostError(
                f"{self._dir} is open to other users (mode {stat.S_IMODE(mode):04o}); "
                f"run: chmod 0700 {self._dir}"
            )

    def signer(self) -> Signer:
        """The sealing key. Raises HostError where there is none."""
        tpm = self.host_tpm()
        if tpm is not None:
            return tpm.signer
        return self.credential() or sealing_signer(self.read(SEALING), self._dir / SEALING)

    def sealing_key(self) -> SealingKey:
        """The sealing key as it is kept. Raises HostError where there is none."""
        tpm = self._tpm_file()
        if tpm is not None or self.credential() is not None:
            return SealingKey(tpm=tpm)
        return SealingKey(pem=self.read(SEALING).decode(errors="replace"))

    def signer_of(self, key: SealingKey, path: Path) -> Signer:
        """The signer with a key that `path` holds. Raises HostError."""
        if key.tpm is not None:
            return self.open_tpm(key.tpm).signer
        if key.pem:
            return sealing_signer(key.pem.encode(), path)
        credential = self.credential()
        if credential is None:
            raise HostError(
                f"the sealing key of {path} is systemd's credential, which is not here; run it with "
                "the same $CREDENTIALS_DIRECTORY, or ask for a new token"
            )
        return credential

    def previous_signer(self) -> Signer | None:
        """The sealing key before the last rotation; None: there was none, or it is gone."""
        path = self._dir / PREVIOUS
        if not path.exists():
            return None
        key = decode(self.read(PREVIOUS), SealingKey, path)
        if not key.pem and key.tpm is None and self.credential() is None:
            return None
        return self.signer_of(key, path)

    def host_tpm(self) -> HostTpm | None:
        """The TPM that the sealing key lives in; None: it is no TPM's."""
        file = self._tpm_file()
        return None if file is None else self.open_tpm(file)

    def open_tpm(self, file: TpmFile) -> HostTpm:
        """The TPM with keys that were made in it. Raises HostError where none is configured."""
        if self.tpm_config is None:
            raise HostError(
                "this host's sealing key lives in its TPM, and the configuration names none: set "
                "tpm: {} in agent.yaml, or enrol the host anew"
            )
        from assay_agent.tpm.kept import open_kept  # noqa: PLC0415 - memory: only who has one

        return open_kept(self.tpm_config, file)

    def _tpm_file(self) -> TpmFile | None:
        path = self._dir / TPM
        return decode(self.read(TPM), TpmFile, path) if path.exists() else None

    def credential(self) -> Ed25519Signer | None:
        """The sealing key that systemd brought, if it did: no other is used then."""
        if self._credentials_dir is None:
            return None
        path = self._credentials_dir / SEALING
        # systemd keeps it to the service, by an ACL if need be
        return sealing_signer(path.read_bytes(), path) if path.exists() else None

    def host(self) -> Host:
        """The enrolled host. Raises HostError where this host was never enrolled."""
        if (self._dir / SWITCHING).exists():
            raise HostError(
                f"an enrolment in {self._dir} was cut off; starting the agent completes it, or the "
                "same enroll again"
            )
        return decode(self.read(HOST), Host, self._dir / HOST)

    @property
    def enrolled(self) -> bool:
        """Whether an enrolment was completed here."""
        return (self._dir / HOST).exists()

    def tls(self) -> TlsIdentity:
        """The client certificate and what the valuer is checked against."""
        path = self._dir / TLS
        pem = self.read(TLS)
        try:
            chain = x509.load_pem_x509_certificates(pem)
            key = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError) as error:
            raise HostError(f"{path} is damaged; enrol this host anew") from error
        return TlsIdentity(
            key_pem=to_pem(key),
            chain_pem=b"".join(c.public_bytes(serialization.Encoding.PEM) for c in chain),
            authority_pem=self.read(AUTHORITY),
            not_before_ms=int(chain[0].not_valid_before_utc.timestamp() * 1000),
            not_after_ms=int(chain[0].not_valid_after_utc.timestamp() * 1000),
        )

    def enrolling(self) -> Enrolling | None:
        """The enrolment under way, if there is one."""
        path = self._dir / ENROLLING
        return decode(self.read(ENROLLING), Enrolling, path) if path.exists() else None

    def begin_enrolling(self, enrolling: Enrolling) -> None:
        """Keeps a statement before it is sent."""
        self.write(ENROLLING, msgspec.json.encode(enrolling))

    def store_host(self, host: Host) -> None:
        """Keeps who the host is."""
        self.write(HOST, msgspec.json.format(msgspec.json.encode(host)))

    def store_tls(self, key_pem: bytes, chain_pem: bytes, authority_pem: bytes) -> None:
        """Keeps a new client certificate, after checking that it is one for this key."""
        tls_pem = join_tls(key_pem, chain_pem, authority_pem)
        self.write(AUTHORITY, authority_pem)
        self.write(TLS, tls_pem)

    def read(self, name: str) -> bytes:
        """A file of the store. Raises HostError where it is missing, or open to other users."""
        path = self._dir / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise HostError(
                f"{path} is missing: this host is not enrolled "
                "(assay-agent enroll --token-file FILE)"
            ) from error
        except OSError as error:
            raise HostError(f"{path} cannot be read: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if mode & 0o077:
                raise HostError(
                    f"{path} is readable by other users (mode {stat.S_IMODE(mode):04o}); its secret "
                    "may be known: run chmod 0600 on it, or better, enrol this host anew"
                )
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Replaces a file as a whole: fsync before the rename, and the directory after it."""
        fresh = self._dir / (name + ".new")
        fresh.unlink(missing_ok=True)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._dir / name)
            sync(self._dir)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise HostError(f"{self._dir / name} cannot be written: {error.strerror}") from error


def sync(directory: Path) -> None:
    """Makes what was made, renamed or removed in a directory outlive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def encode(data: bytes) -> str:
    """Bytes as base64, as the files above hold them."""
    return base64.b64encode(data).decode()


def decode(data: bytes, type_: type[_T], path: Path) -> _T:
    """What a file of the store says. Raises HostError where it is damaged."""
    try:
        return msgspec.json.decode(data, type=type_)
    except msgspec.MsgspecError as error:
        raise HostError(f"{path} is damaged ({error}); enrol this host anew") from error
