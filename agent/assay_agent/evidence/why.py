"""Why a GPU gave no evidence: a name that does not change, words for a person, and what to do."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class Why(enum.StrEnum):
    """The reason, by its name on a metric's label and on the wire between our own programs."""

    CC_OFF = "cc_off"
    NOT_SUPPORTED = "not_supported"
    DRIVER_TOO_OLD = "driver_too_old"
    NO_PERMISSION = "no_permission"
    GPU_LOST = "gpu_lost"
    GPU_ASLEEP = "gpu_asleep"
    DRIVER_ABSENT = "driver_absent"
    DRIVER_HANGS = "driver_hangs"
    DRIVER_ERROR = "driver_error"
    IN_MAINTENANCE = "in_maintenance"
    NO_GPU = "no_gpu"
    MALFORMED = "malformed"
    OTHER_NONCE = "other_nonce"
    SOCKET_MISSING = "socket_missing"
    SOCKET_DENIED = "socket_denied"
    NO_ANSWER = "no_answer"
    BAD_ANSWER = "bad_answer"
    LIBRARY_MISSING = "library_missing"
    LIBRARY_OTHER_ARCHITECTURE = "library_other_architecture"
    LIBRARY_UNFIT = "library_unfit"
    LIBRARY_ERROR = "library_error"

    @property
    def what(self) -> str:
        """In plain words."""
        return _WORDS[self][0]

    @property
    def fix(self) -> str:
        """What to do about it; empty where nothing is to be done."""
        return _WORDS[self][1]


_PAGE: Final = "docs/evidence-collectors.md says how"
_UNIT: Final = "see journalctl -u 'assay-corelib@*'"

_WORDS: Final[Mapping[Why, tuple[str, str]]] = {
    Why.CC_OFF: (
        "confidential computing and protected PCIe are off, and without them NVML gives no evidence",
        f"for a proof, boot the host in one of these modes; Blackwell can do without: {_PAGE}",
    ),
    Why.NOT_SUPPORTED: (
        "the GPU or its driver signs no reports",
        "none, before Hopper; on a newer GPU, update driver and VBIOS",
    ),
    Why.DRIVER_TOO_OLD: (
        "the driver's library does not have the call",
        "update the driver to release 535 or newer",
    ),
    Why.NO_PERMISSION: (
        "the driver does not let this user ask",
        "give the agent's user read and write access to /dev/nvidiactl and /dev/nvidia0…",
    ),
    Why.GPU_LOST: ("the GPU fell off its bus", "reset it, or reboot the host"),
    Why.GPU_ASLEEP: ("a GPU sleeps, and asking would wake it", "ask again when it works"),
    Why.DRIVER_ABSENT: ("no driver answers", "see the driver's own finding"),
    Why.DRIVER_HANGS: (
        "a call of the driver did not return in time",
        "look for Xid and NVRM lines in dmesg; until that call returns no other is made for evidence",
    ),
    Why.DRIVER_ERROR: ("the driver refused", "look for Xid and NVRM lines in dmesg"),
    Why.IN_MAINTENANCE: ("the agent is paused", "assay-agent pause --resume"),
    Why.NO_GPU: ("no GPU was found", "see the GPUs' own finding"),
    Why.MALFORMED: (
        "what was given is no report, or no chain of certificates",
        "report it with the driver's and the VBIOS's versions",
    ),
    Why.OTHER_NONCE: (
        "the report answers another nonce than the one it was asked for",
        "report it with the driver's and the VBIOS's versions",
    ),
    Why.SOCKET_MISSING: (
        "nobody listens at corelib's socket",
        "systemctl enable --now assay-corelib.socket",
    ),
    Why.SOCKET_DENIED: (
        "this user may not connect to corelib's socket",
        "SocketGroup= in assay-corelib.socket must be the agent's group",
    ),
    Why.NO_ANSWER: (
        "corelib's program gave no answer: it hangs, has failed, or one still runs",
        _UNIT,
    ),
    Why.BAD_ANSWER: ("corelib's program answered what is no answer", _UNIT),
    Why.LIBRARY_MISSING: (
        "libcorelib.so.1 is not installed",
        f"install NVIDIA's corelib, within its licence: {_PAGE}",
    ),
    Why.LIBRARY_OTHER_ARCHITECTURE: (
        "the libcorelib.so.1 that is installed is for other processors than this host's",
        "install the package for this host's architecture",
    ),
    Why.LIBRARY_UNFIT: (
        "libcorelib.so.1 is not the library that this program knows",
        f"install the release that it was written for: {_PAGE}",
    ),
    Why.LIBRARY_ERROR: (
        "corelib refused",
        "it needs a Blackwell GPU, and all of its PCI configuration space: no container has that",
    ),
}
