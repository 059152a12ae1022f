"""New sealing keys: made where the configuration says, and shown to live there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from assay_agent.keys import KeyStore, SealingKey, TpmFile
from assay_agent.pem import new_sealing_key
from assay_agent.tpm.errors import TpmError
from assay_agent.uplink import enrollment
from assay_agent.uplink.enrollment import TpmBinding
from assay_core.errors import HostError

if TYPE_CHECKING:
    from assay_agent.tpm.kept import HostTpm


async def make(keys: KeyStore) -> SealingKey:
    """A new key: in the TPM that is configured, else systemd's credential, else in PEM.

    Raises HostError where the TPM that is required cannot be used.
    """
    config = keys.tpm_config
    if config is not None:
        try:
            return await in_tpm(keys, None)
        except TpmError:
            if config.required:
                raise
    return SealingKey(pem="" if keys.credential() is not None else new_sealing_key().decode())


async def in_tpm(keys: KeyStore, after: TpmFile | None) -> SealingKey:
    """A new key in the TPM, under the same attestation key as `after`. Raises HostError."""
    if keys.tpm_config is None:
        raise HostError("the configuration names no TPM: set tpm: {} in agent.yaml")
    from assay_agent.tpm import kept  # noqa: PLC0415 - memory: only who has one
    from assay_agent.tpm.machine import TpmKeys  # noqa: PLC0415

    machine = kept.machine(keys.tpm_config)
    if after is None:
        return SealingKey(tpm=kept.to_file(await asyncio.to_thread(machine.create_keys)))
    attestation = keys.open_tpm(after).keys.attestation
    signing = await asyncio.to_thread(machine.create_signing_key)
    return SealingKey(tpm=kept.to_file(TpmKeys(attestation, signing)))


async def bind(keys: KeyStore, key: SealingKey) -> TpmBinding | None:
    """What a valuer needs to believe that the key lives in a TPM; None: it does not."""
    if key.tpm is None:
        return None
    return await asyncio.to_thread(_bind, keys.open_tpm(key.tpm))


def _bind(tpm: HostTpm) -> TpmBinding:
    said = tpm.machine.certify(tpm.keys, b"")
    return TpmBinding(
        ek_certificates=tpm.machine.endorsement_certificates(),
        ak_public=tpm.keys.attestation.public,
        key_public=tpm.keys.signing.public,
        certify_attest=said.attest,
        certify_signature=said.signature,
    )


async def activate(
    keys: KeyStore, key: SealingKey, endpoint: str, authority_pem: bytes, proxy: str | None
) -> bytes:
    """What the valuer's credential for the key's TPM holds; nothing for a key of no TPM.

    Asked for anew with each attempt: a valuer keeps none. Raises HostError or ServiceError.
    """
    if key.tpm is None:
        return b""
    tpm = keys.open_tpm(key.tpm)
    certificates = await asyncio.to_thread(tpm.machine.endorsement_certificates)
    locked = await enrollment.activate(
        endpoint,
        authority_pem,
        proxy,
        ek_certificates=certificates,
        ak_public=tpm.keys.attestation.public,
    )
    return await asyncio.to_thread(
        tpm.machine.activate, tpm.keys.attestation, locked.blob, locked.secret
    )
