"""A host's TPM with the keys that were enrolled from it, as the agent's files name them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from assay_agent.config import TpmConfig
from assay_agent.keys import TpmFile
from assay_agent.tpm.device import Address
from assay_agent.tpm.errors import TpmBusy, TpmError
from assay_agent.tpm.machine import KeyBlobs, Statement, Tpm, TpmKeys
from assay_agent.tpm.signer import TpmSigner
from assay_core.errors import FileError
from assay_core.evidence import tpm

_QUOTES_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Quoted:
    """A quote, and the values that it is over."""

    statement: Statement
    values: dict[int, bytes]
    """PCRs of the SHA-256 bank, 32 bytes each, by their numbers."""


@dataclass(frozen=True, slots=True)
class HostTpm:
    """One TPM and this host's keys in it. Its methods block for as long as the TPM takes."""

    machine: Tpm
    keys: TpmKeys

    @property
    def attestation_name(self) -> bytes:
        """The name of the attestation key, 34 bytes."""
        return self.keys.attestation.name

    @property
    def signer(self) -> TpmSigner:
        """Signs windows. Raises TpmError where the key is damaged."""
        return TpmSigner(self.machine, self.keys.signing)

    def quote(self, pcrs: Collection[int], extra: bytes) -> Quoted:
        """A quote with the values it is over. `extra` has 32 bytes at most.

        A PCR may change between the two (Linux' IMA extends PCR 10 as programs run): then both are
        made again. Raises TpmError or TpmBusy, and ValueError for PCRs that there are not.
        """
        key = self.keys.attestation
        for _ in range(_QUOTES_MAX):
            values = self.machine.read_pcrs(pcrs)
            statement = self.machine.quote(key, pcrs, extra)
            try:
                attested = tpm.quote(statement.attest, statement.signature, tpm.public(key.public))
            except tpm.BadTpm as error:
                raise TpmError(f"the TPM's quote does not hold: {error}") from error
            if attested.digest == tpm.pcr_digest(values):
                return Quoted(statement, values)
        raise TpmBusy("the TPM's PCRs change faster than they can be quoted; try again")


def machine(config: TpmConfig) -> Tpm:
    """The TPM that the configuration names. Raises FileError where ek_chain cannot be read."""
    chain: list[bytes] = []
    if config.ek_chain is not None:
        try:
            found = x509.load_pem_x509_certificates(Path(config.ek_chain).read_bytes())
        except (OSError, ValueError) as error:
            raise FileError(
                f"tpm.ek_chain: {config.ek_chain} does not hold certificates in PEM: {error}"
            ) from error
        chain = [one.public_bytes(serialization.Encoding.DER) for one in found]
    return Tpm(Address.parse(config.device), chain)


def open_kept(config: TpmConfig, file: TpmFile) -> HostTpm:
    """The TPM with the keys that the file holds."""
    return HostTpm(
        machine(config),
        TpmKeys(
            KeyBlobs(file.attestation_public, file.attestation_private),
            KeyBlobs(file.signing_public, file.signing_private),
        ),
    )


def to_file(keys: TpmKeys) -> TpmFile:
    """The keys as a file holds them."""
    return TpmFile(
        attestation_public=keys.attestation.public,
        attestation_private=keys.attestation.private,
        signing_public=keys.signing.public,
        signing_private=keys.signing.private,
    )
