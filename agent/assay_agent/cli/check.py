"""`assay-agent check`: what is missing on this host, in plain words, with the fix for each."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from assay_agent import config, control
from assay_agent.cli import installation
from assay_agent.cli.check_tpm import tpm
from assay_agent.config import AgentConfig
from assay_agent.evidence.collector import Answer
from assay_agent.evidence.collectors import collect, make_collectors
from assay_agent.host import Clock
from assay_agent.keys import KeyStore
from assay_agent.metrics import UplinkState
from assay_agent.telemetry import diagnosis, diagnosis_evidence, diagnosis_gpus, diagnosis_host
from assay_agent.telemetry.diagnosis import Finding, State
from assay_agent.telemetry.reading import Depth, Poll
from assay_agent.telemetry.sources import make_source
from assay_core.errors import AssayError
from assay_core.evidence.spdm import NONCE_BYTES
from assay_core.instants import format_duration, format_instant

if TYPE_CHECKING:
    from grpc.aio import Channel

_REACH_TIMEOUT_S: Final = 5.0
_AHEAD_MAX_MS: Final = 60_000
"""What a valuer takes from a host whose clock is ahead."""
CONTROL_SOCKET: Final = "control.sock"
"""There while the agent runs; see control.py."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "check",
        help="say what is missing on this host, and the fix for each",
        description="Looks at the driver, its library and permissions, the PCI bus, each GPU, the "
        "hardware evidence they can give, the kernel's log, the clock, the state directory, open "
        "incidents, the metrics port, the enrolment, the TPM, the certificate, and whether the "
        "valuer can be reached. Changes nothing. Exit status 1: something failed; warnings and notes do not "
        "count.",
        epilog="example: runuser -u assay-agent -- assay-agent check --json",
    )
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """Looks, and prints what it found."""
    try:
        settings = config.load(args.config)
    except AssayError as error:
        findings = [
            Finding(
                State.FAILED,
                "configuration-refused",
                "configuration",
                str(error),
                "correct that line",
            )
        ]
    else:
        findings = [configuration(args.config), *asyncio.run(look(settings))]
    if args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    return 1 if any(finding.state is State.FAILED for finding in findings) else 0


def configuration(path: Path | None) -> Finding:
    """Which file was read: by hand it may be another than the service's."""
    words = f"every default: there is no {config.USUAL}" if path is None else str(path)
    return Finding(State.OK, "configuration-read", "configuration", words)


async def look(settings: AgentConfig) -> list[Finding]:
    """Everything that is looked at, in the order in which it matters."""
    keys = KeyStore.default(settings)
    found = [
        installation.user(),
        *await _source(settings),
        diagnosis.clock(),
        installation.state_directory(settings),
        *installation.incidents(settings),
        installation.metrics(settings),
        enrolment(keys),
        await tpm(keys),
        certificate(keys, Clock().utc_ms()),
        *await valuer(keys, settings.proxy),
        await asyncio.to_thread(uplink, keys),
    ]
    return [finding for finding in found if finding is not None]


def enrolment(keys: KeyStore) -> Finding:
    """Whether a valuer knows this host."""
    about = "enrolment"
    try:
        host = keys.host()
        keys.signer()
    except AssayError as error:
        return Finding(
            State.FAILED,
            "not-enrolled",
            about,
            str(error),
            "ask the lender for a token, then: assay-agent enroll --token-file FILE",
        )
    return Finding(State.OK, "enrolled", about, f"incarnation {host.incarnation} of {host.host_id}")


def uplink(keys: KeyStore) -> Finding | None:
    """What the running agent hears from the valuer; nothing where none runs."""
    about = "running agent"
    if not (keys.state_dir / CONTROL_SOCKET).exists():
        return None
    try:
        reply = control.ask(keys.state_dir, control.Request(uplink=True))
    except AssayError as error:
        fix = "see its log: journalctl -u assay-agent"
        return Finding(State.WARNING, "agent-silent", about, str(error), fix)
    state, _, said = reply.message.partition(": ")
    if state == UplinkState.CONNECTED.value:
        return Finding(State.OK, "uplink-connected", about, f"connected: {said}")
    if state == UplinkState.CONNECTING.value:
        fix = "it tries again by itself; see above what may be in its way"
        return Finding(State.WARNING, "uplink-connecting", about, f"not connected: {said}", fix)
    fix = "it waits for a person: do what the valuer says, or ask the lender"
    return Finding(State.FAILED, "uplink-needs-person", about, f"{state}: {said}", fix)


def certificate(keys: KeyStore, now_ms: int) -> Finding:
    """Whether the client certificate lets the agent in."""
    about = "certificate"
    try:
        tls = keys.tls()
    except AssayError as error:
        return Finding(State.FAILED, "certificate-missing", about, str(error), "see the enrolment")
    until = format_instant(tls.not_after_ms)
    if now_ms < tls.not_before_ms:
        return Finding(
            State.FAILED,
            "certificate-early",
            about,
            f"not valid before {format_instant(tls.not_before_ms)}: this host's clock is behind",
            "see the clock",
        )
    if now_ms >= tls.not_after_ms:
        return Finding(
            State.FAILED,
            "certificate-expired",
            about,
            f"expired at {until}",
            "run the agent: it renews by its sealing key for 90 days after that; later, enrol anew",
        )
    age = format_duration(now_ms - tls.not_before_ms)
    if now_ms >= tls.renew_at_ms:
        return Finding(
            State.WARNING,
            "certificate-due",
            about,
            f"{age} old and due for renewal, valid until {until}",
            "nothing, if the agent runs and reaches the valuer: it renews by itself",
        )
    return Finding(State.OK, "certificate-valid", about, f"{age} old, valid until {until}")


async def valuer(
    keys: KeyStore, proxy: str | None, timeout_s: float = _REACH_TIMEOUT_S
) -> list[Finding]:
    """Whether the valuer can be reached as the agent does it (TCP, proxy, TLS), and its clock."""
    about = "valuer"
    try:
        host, tls = keys.host(), keys.tls()
    except AssayError as error:
        return [Finding(State.FAILED, "valuer-unknown", about, str(error), "see the enrolment")]
    from assay_agent.uplink.channel import open_mutual_tls  # noqa: PLC0415 - gRPC is heavy

    endpoint = host.attestation_endpoint
    async with open_mutual_tls(endpoint, tls, proxy) as channel:
        try:
            async with asyncio.timeout(timeout_s):
                await channel.channel_ready()
        except TimeoutError:
            through = f" through {proxy}" if proxy else ""
            fix = (
                "let this host out to that port, or name a proxy in agent.yaml; readings are kept "
                "meanwhile"
            )
            what = f"no TLS connection to {endpoint}{through} within {timeout_s:.0f} s"
            return [Finding(State.FAILED, "valuer-unreachable", about, what, fix)]
        reached = Finding(State.OK, "valuer-reached", about, f"{endpoint} answers over TLS")
        if (keys.state_dir / CONTROL_SOCKET).exists():
            return [reached]  # the agent runs: its stream is not to be disturbed
        return [reached, await _against_valuer(channel, endpoint, host.incarnation, timeout_s)]


async def _against_valuer(
    channel: Channel, endpoint: str, incarnation: int, timeout_s: float
) -> Finding:
    from assay_agent.uplink.clock import valuer_now_ms  # noqa: PLC0415 - gRPC is heavy

    about = "clock against the valuer's"
    try:
        theirs_ms = await valuer_now_ms(channel, endpoint, incarnation, timeout_s)
    except AssayError as error:
        return Finding(State.FAILED, "valuer-refuses", about, str(error), "ask the lender")
    ahead_ms = Clock().utc_ms() - theirs_ms
    apart = f"{format_duration(abs(ahead_ms))} {'ahead' if ahead_ms > 0 else 'behind'}"
    if ahead_ms > _AHEAD_MAX_MS:
        return Finding(
            State.FAILED,
            "clock-ahead",
            about,
            apart,
            "set this host's clock: its windows must wait",
        )
    if ahead_ms < -_AHEAD_MAX_MS:
        return Finding(
            State.WARNING,
            "clock-behind",
            about,
            apart,
            "set this host's clock: its windows are marked",
        )
    return Finding(State.OK, "clock-agrees", about, apart)


async def _source(settings: AgentConfig) -> list[Finding]:
    """The driver, or the file that stands for one."""
    if settings.source.kind != "nvml":
        try:
            make_source(settings.source)
        except AssayError as error:
            return [
                Finding(State.FAILED, "source-refused", "source", str(error), "correct that line")
            ]
        return [
            Finding(
                State.WARNING,
                "source-not-real",
                "source",
                f"{settings.source.kind}: no GPU is read, and every window says so",
                "leave out source: in agent.yaml to read this host's driver",
            )
        ]
    poll, answers = await _poll(settings)
    root = Path(settings.source.host_root)
    found = [
        diagnosis.library(),
        diagnosis.driver(poll, root / "proc/driver/nvidia/version"),
        diagnosis.versions(poll),
        diagnosis.provenance(poll),
        diagnosis.devices(),
        *diagnosis_host.bus(poll, root),
        diagnosis_gpus.gpus(poll),
        *diagnosis_gpus.conditions(poll),
        diagnosis_evidence.evidence(poll, settings.evidence, answers),
        diagnosis_host.kernel_log(poll, settings.source),
    ]
    return [finding for finding in found if finding is not None]


async def _poll(settings: AgentConfig) -> tuple[Poll, tuple[Answer, ...]]:
    """One look, and where evidence is switched on, what the GPUs answer to a nonce of ours."""
    source = make_source(settings.source)
    try:
        poll = await source.poll(0, Depth.DAY)
        nonce = secrets.token_bytes(NONCE_BYTES)
        return poll, await collect(make_collectors(settings.evidence, source), nonce)
    finally:
        await source.close()


def _print(findings: list[Finding]) -> None:
    from rich.console import Console  # noqa: PLC0415 - JSON does without it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    colours = {
        State.OK: "green",
        State.NOTE: "cyan",
        State.WARNING: "yellow",
        State.FAILED: "red",
    }
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        what = Text(finding.what, overflow="fold")  # a host id is longer than some terminals
        if finding.fix:
            what.append(f"\nFix: {finding.fix}.", style="bold")
        table.add_row(Text(finding.state.value, style=colours[finding.state]), finding.about, what)
    Console().print(table)
