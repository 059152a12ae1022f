"""What corelib's one-shot program answers its caller: one JSON object, and then the end.

The question is the nonce, 32 bytes and no more. The program runs as root and hands on what the
devices said as they said it; whoever asked takes it apart.
"""

from __future__ import annotations

from typing import Final

import msgspec

from assay_agent.evidence.why import Why

GPUS_MAX: Final = 64
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
"""Room for so many GPUs' reports and certificates, in base64."""


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One GPU: evidence, or what went wrong with it alone."""

    about: str = ""
    """What corelib calls it."""
    report: bytes = b""
    certificates: bytes = b""
    """SPDM's certificate chain: a header, then certificates in DER, the root's first."""
    fault: Why | None = None
    detail: str = ""


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of the host's GPUs, or what went wrong with all of them."""

    gpus: list[Gpu] = []
    fault: Why | None = None
    detail: str = ""
