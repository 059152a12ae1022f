"""`assay-agent check` and the host's TPM."""

from __future__ import annotations

import asyncio

from assay_agent.keys import KeyStore
from assay_agent.telemetry.diagnosis import Finding, State
from assay_agent.tpm import kept
from assay_core.errors import AssayError

_ABOUT = "TPM"


async def tpm(keys: KeyStore) -> Finding | None:
    """Whether the TPM does what the agent asks of it; None where the agent asks nothing of any."""
    config = keys.tpm_config
    if config is None:
        return None
    try:
        host = keys.host_tpm()
        machine = kept.machine(config)
        await asyncio.to_thread(machine.endorsement_certificates)
        if host is not None:
            await asyncio.to_thread(host.quote, (0,), b"")
            await asyncio.to_thread(host.signer.sign, b"assay-agent check")
    except AssayError as error:
        state = State.FAILED if config.required else State.WARNING
        return Finding(state, "tpm-unusable", _ABOUT, str(error), "see the message")
    if host is not None:
        return Finding(State.OK, "tpm-seals", _ABOUT, f"the sealing key lives in {config.device}")
    if not keys.enrolled:
        return Finding(State.OK, "tpm-there", _ABOUT, f"{config.device} has what enrolling needs")
    return Finding(
        State.WARNING,
        "tpm-unused",
        _ABOUT,
        f"{config.device} is there, and the sealing key is not in it",
        "assay-agent rotate --to tpm",
    )
