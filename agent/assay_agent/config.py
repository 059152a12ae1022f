"""The agent's configuration file, agent.yaml. Every default is safe to run with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from assay_agent.tpm.device import Address
from assay_core import files
from assay_core.errors import FileError

USUAL: Final = Path("/etc/assay-agent/agent.yaml")
"""Where the unit has it."""
VARIABLE: Final = "ASSAY_AGENT_CONFIG"


class SourceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where readings come from."""

    kind: Literal["nvml", "replay", "simulated"] = "nvml"
    file: str | None = None
    """The trace to replay, or the scenario to simulate."""
    timeout_ms: int = 10_000
    """How long a driver call may take before the driver counts as unresponsive."""
    host_root: str = "/"
    """Where the host's /proc, /sys and /dev are; another place in a container, as node-exporter's
    --path.rootfs."""
    kernel_log: Literal["auto", "journal", "kmsg", "off"] = "auto"
    """Where Xids are read besides NVML; auto: the journal where its group lets us, else /dev/kmsg
    where that is allowed."""


class SpoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much is kept for a valuer that cannot be reached."""

    bytes_max: int = 1024 * 1024 * 1024
    acknowledged_keep_ms: int = 14 * 86_400_000


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certificate and key of the metrics port, PEM files; with client_ca, callers need one too."""

    certificate: str
    key: str
    client_ca: str | None = None


class MetricsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where Prometheus finds the agent."""

    listen: str | None = "127.0.0.1:9464"
    """A loopback address, or any other with `tls`; null for none."""
    tls: TlsConfig | None = None
    textfile: str | None = None
    """A file for node-exporter's textfile collector, ending in .prom, written at every window."""
    dcgm_names: bool = False
    """Also tell readings by the names of DCGM's exporter, for dashboards that know no others."""


class EvidenceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Hardware evidence of the GPUs, for the lender's challenges: docs/evidence-collectors.md."""

    nvml: bool = False
    """Through the driver, in confidential-computing mode or protected PCIe."""
    corelib: str | None = None
    """The socket of assay-corelib.socket, /run/assay-corelib.sock: Blackwell, in any mode."""


class TpmConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The host's TPM 2.0. An enrolment makes the sealing key in it, where nobody can copy it."""

    device: str = "device:/dev/tpmrm0"
    """The kernel's device, or for a simulated one unix:/PATH or tcp:NAME:PORT."""
    ek_chain: str | None = None
    """PEM certificates from the TPM's endorsement key to its maker's root that it does not hold."""
    required: bool = True
    """False: a host that has no TPM may enrol with a key in a file."""


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of agent.yaml."""

    state_dir: str = "/var/lib/assay-agent"
    """Keys, certificates and the spool; 0700, owned by the agent's user."""
    poll_ms: int = 5_000
    window_ms: int = 300_000
    """1 s to 15 min. A health event closes a window at once."""
    source: SourceConfig = SourceConfig()
    spool: SpoolConfig = SpoolConfig()
    metrics: MetricsConfig = MetricsConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    tpm: TpmConfig | None = None
    """Null: the sealing key is a file. `tpm: {}` for a TPM with every default."""
    proxy: str | None = None
    """HTTP CONNECT proxy to the valuer, http://name:port. Without one, https_proxy is followed."""


def chosen(given: Path | None, environment: Mapping[str, str], usual: Path = USUAL) -> Path | None:
    """The file that a command reads: the one given, else the variable's, else the service's own.

    So that whoever enrols or checks a host by hand does it as the service runs. None: no file, and
    every default.
    """
    if given is not None:
        return given
    named = environment.get(VARIABLE)
    if named:
        return Path(named)
    return usual if usual.exists() else None


def load(path: Path | None) -> AgentConfig:
    """Reads agent.yaml; without a file, the defaults. Raises FileError with line and field."""
    if path is None:
        return AgentConfig()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: cannot be read: {error}") from error
    if not text.strip():
        return AgentConfig()
    config = files.parse(text, AgentConfig, str(path))
    if not 1_000 <= config.window_ms <= 900_000:
        raise FileError(f"{path}: window_ms: {config.window_ms} is not within 1000 to 900000")
    if not 100 <= config.poll_ms <= config.window_ms:
        raise FileError(f"{path}: poll_ms: {config.poll_ms} is not within 100 to window_ms")
    if config.source.kind != "nvml" and config.source.file is None:
        raise FileError(f"{path}: source.file: {config.source.kind} needs a file")
    if config.source.kind != "nvml" and config.evidence != EvidenceConfig():
        raise FileError(f"{path}: evidence: {config.source.kind} has no hardware behind it")
    if config.evidence.corelib is not None and not config.evidence.corelib.startswith("/"):
        raise FileError(f"{path}: evidence.corelib: {config.evidence.corelib} is no absolute path")
    _check_tpm(config.tpm, path)
    textfile = config.metrics.textfile
    if textfile is not None and not textfile.endswith(".prom"):
        raise FileError(
            f"{path}: metrics.textfile: {textfile} does not end in .prom: node-exporter reads no other"
        )
    return config


def _check_tpm(tpm: TpmConfig | None, path: Path) -> None:
    if tpm is None:
        return
    try:
        Address.parse(tpm.device)
    except ValueError as error:
        raise FileError(f"{path}: tpm.device: {error}") from error
