"""What the agent does with its host's TPM: keys that cannot leave it, and what they say.

Each call opens the TPM, loads what it needs, and leaves nothing loaded behind: nobody else on the
host is kept waiting, and nothing is lost when the TPM, the agent or the host restarts. Calls block
for as long as the TPM takes, about half a second for a signature on a slow one.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from assay_agent.tpm import templates
from assay_agent.tpm.commands import ENDORSEMENT, Commands
from assay_agent.tpm.device import Place
from assay_agent.tpm.errors import Code, TpmError
from assay_agent.tpm.wire import Reader, u16
from assay_core.evidence.tpm import ECDSA, SHA256

ENDORSEMENT_KEY: Final = 0x81010001
"""Where a TPM keeps its RSA endorsement key, if it does: TCG's registry of reserved handles."""
ENDORSEMENT_CERTIFICATE: Final = 0x01C00002
"""The NV index of that key's certificate: TCG EK Credential Profile 2.5, §2.2.1.4."""
_NOT_OPENED: Final = (Code.INTEGRITY, Code.VALUE, Code.SIZE, Code.FAILURE)
"""What TPMs say to a credential that is not theirs; "failure" is libtpms', where decrypting fails."""
_UNIQUE_BYTES: Final = 256
_COORDINATE_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class KeyBlobs:
    """A key of one TPM, as it is kept outside: of no use to any other."""

    public: bytes
    """TPM2B_PUBLIC."""
    private: bytes
    """TPM2B_PRIVATE: encrypted by the TPM."""

    @property
    def name(self) -> bytes:
        """The key's name: 34 bytes, the algorithm and the digest of its public area."""
        return u16(SHA256) + hashlib.sha256(self.public[2:]).digest()


@dataclass(frozen=True, slots=True)
class TpmKeys:
    """A host's two keys in its TPM."""

    attestation: KeyBlobs
    """Signs what the TPM says, and nothing else."""
    signing: KeyBlobs
    """Signs windows."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What the TPM says, signed by its attestation key."""

    attest: bytes
    """TPMS_ATTEST."""
    signature: bytes
    """TPMT_SIGNATURE."""


class Tpm:
    """One TPM. Every method raises TpmError, whose message says what to do, or TpmBusy."""

    def __init__(self, place: Place, chain: Sequence[bytes] = ()) -> None:
        """`chain` has certificates, DER, that the TPM itself does not hold: its maker's in between.

        Where the TPM holds none of its own either, as AMD's do not, the first one is its own.
        """
        self._place = place
        self._chain = tuple(chain)

    def endorsement_certificates(self) -> tuple[bytes, ...]:
        """The endorsement key's certificate, DER, and those between it and its maker's root."""
        with self._open() as commands:
            stored = commands.nv(ENDORSEMENT_CERTIFICATE)
        found = self._chain if stored is None else (_certificate(stored), *self._chain)
        if not found:
            raise TpmError(
                f"the TPM at {self._place} has no endorsement certificate: get it from its maker, "
                "and name its file in tpm.ek_chain"
            )
        return found

    def endorsement_key(self) -> bytes:
        """The endorsement key's TPM2B_PUBLIC."""
        with self._open() as commands, self._endorsement(commands) as (_, public):
            return public

    def create_keys(self) -> TpmKeys:
        """A new attestation key and a new signing key."""
        with (
            self._open() as commands,
            commands.primary(ENDORSEMENT, templates.STORAGE_KEY) as (parent, _),
        ):
            return TpmKeys(
                KeyBlobs(*commands.create(parent, templates.ATTESTATION_KEY)),
                KeyBlobs(*commands.create(parent, templates.SIGNING_KEY)),
            )

    def create_signing_key(self) -> KeyBlobs:
        """A new signing key, to follow another under the same attestation key."""
        with (
            self._open() as commands,
            commands.primary(ENDORSEMENT, templates.STORAGE_KEY) as (parent, _),
        ):
            return KeyBlobs(*commands.create(parent, templates.SIGNING_KEY))

    def certify(self, keys: TpmKeys, qualifying: bytes) -> Statement:
        """That the signing key lives in the same TPM as the attestation key, which says so.

        `qualifying`, at most 32 bytes, comes back in the statement.
        """
        with self._loaded(keys.attestation, keys.signing) as (commands, (attestation, signing)):
            return Statement(*commands.certify(signing, attestation, qualifying))

    def activate(self, attestation: KeyBlobs, blob: bytes, secret: bytes) -> bytes:
        """What a credential holds, which opens in this TPM, with this key, and nowhere else.

        `blob` is its TPM2B_ID_OBJECT, `secret` its TPM2B_ENCRYPTED_SECRET.
        """
        with (
            self._loaded(attestation) as (commands, (key,)),
            self._endorsement(commands) as (endorsement, _),
        ):
            try:
                return commands.activate(key, endorsement, blob, secret)
            except TpmError as error:
                if error.code not in _NOT_OPENED:
                    raise
                raise TpmError(
                    "the credential is for another TPM or another key: the valuer took the endorsement "
                    "certificate of some other host, or this host's TPM was replaced. Enrol anew",
                    error.code,
                ) from error

    def quote(self, attestation: KeyBlobs, pcrs: Collection[int], extra: bytes) -> Statement:
        """The PCRs' digest, the TPM's clock, and `extra`, which has 32 bytes at most."""
        with self._loaded(attestation) as (commands, (key,)):
            return Statement(*commands.quote(key, pcrs, extra))

    def read_pcrs(self, pcrs: Collection[int]) -> dict[int, bytes]:
        """What the PCRs of the SHA-256 bank hold, by their numbers. A quote may be of a later moment."""
        with self._open() as commands:
            return commands.pcrs(pcrs)

    def sign(self, signing: KeyBlobs, digest: bytes) -> bytes:
        """The signing key's signature over a SHA-256 digest: 64 bytes, r || s."""
        with self._loaded(signing) as (commands, (key,)):
            signature = Reader(commands.sign(key, digest))
        if (signature.number(2), signature.number(2)) != (ECDSA, SHA256):
            raise TpmError("the TPM signed by another scheme than its key has")
        r, s = (int.from_bytes(signature.sized(), "big") for _ in range(2))
        if max(r, s).bit_length() > 8 * _COORDINATE_BYTES:
            raise TpmError("the TPM's signature is longer than its key's curve")
        return r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")

    @contextlib.contextmanager
    def _open(self) -> Iterator[Commands]:
        with contextlib.closing(self._place.open()) as transport:
            yield Commands(transport)

    @contextlib.contextmanager
    def _loaded(self, *keys: KeyBlobs) -> Iterator[tuple[Commands, tuple[int, ...]]]:
        """The keys' handles; their parent goes before anything else needs its place."""
        with self._open() as commands, contextlib.ExitStack() as held:
            with commands.primary(ENDORSEMENT, templates.STORAGE_KEY) as (parent, _):
                handles = tuple(
                    held.enter_context(commands.load(parent, key.public, key.private))
                    for key in keys
                )
            yield commands, handles

    @contextlib.contextmanager
    def _endorsement(self, commands: Commands) -> Iterator[tuple[int, bytes]]:
        """The persistent endorsement key, where it is of the profile's kind; else it is made anew."""
        kept = commands.read_public(ENDORSEMENT_KEY)
        kind = templates.ENDORSEMENT_KEY[:-_UNIQUE_BYTES]
        if kept is not None and kept[2:].startswith(kind):
            yield ENDORSEMENT_KEY, kept
        else:
            with commands.primary(ENDORSEMENT, templates.ENDORSEMENT_KEY) as made:
                yield made


def _certificate(stored: bytes) -> bytes:
    """The certificate at the beginning of an NV index, less what pads the index."""
    sequence, long_form = 0x30, 0x80
    head = stored[:4]
    count = head[1] - long_form if len(head) == 4 and head[0] == sequence else 0
    size = 2 + count + int.from_bytes(head[2 : 2 + count], "big")
    if count not in (1, 2) or size > len(stored):
        raise TpmError(
            f"what the TPM holds at NV {ENDORSEMENT_CERTIFICATE:#010x} is no certificate: name the "
            "one its maker gives in tpm.ek_chain, and tell the maker"
        )
    return stored[:size]
