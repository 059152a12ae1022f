"""`assay-valuer check`: what is amiss, in plain words, and what to do about it."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from assay_core.errors import AssayError
from assay_core.instants import format_duration
from assay_valuer.cli import pinned
from assay_valuer.cli.common import FALSE, OK, Commands, add_command, config_of, now_ms, print_json
from assay_valuer.cli.pinned import Finding
from assay_valuer.config import split_endpoint
from assay_valuer.hosts import list_hosts
from assay_valuer.ledger.check import check_ledger
from assay_valuer.ledger.read import newest_position
from assay_valuer.state import State, open_state

ENTRIES_DEFAULT: Final = 100_000
_CONNECT_S: Final = 2.0


def add_parser(commands: Commands) -> None:
    """Registers the command."""
    parser = add_command(
        commands,
        "check",
        "look at configuration, store, ledger, certificates, pinned roots and listeners, and say what is "
        "amiss",
        "assay-valuer check --entries 1000000",
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument(
        "--entries",
        type=int,
        default=ENTRIES_DEFAULT,
        help=f"newest ledger entries to check; 0 for all ({ENTRIES_DEFAULT})",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 where everything holds, 1 where something does not."""
    findings = _findings(args)
    if args.json:
        print_json({"holds": all(f.holds for f in findings), "findings": findings})
    else:
        console = Console()
        for finding in findings:
            mark = ("ok", "green") if finding.holds else ("NO", "red")
            line = Text.assemble(mark, f" {finding.what}: {finding.words}")
            # A line each where nobody looks, for grep; folded between words where somebody does.
            console.print(line, soft_wrap=not console.is_terminal)
    return OK if all(finding.holds for finding in findings) else FALSE


def _findings(args: argparse.Namespace) -> list[Finding]:
    try:
        config = config_of(args)
    except AssayError as error:
        return [Finding("configuration", False, str(error))]
    found = [Finding("configuration", True, f"state in {config.state_dir}")]
    try:
        state = open_state(config)
    except AssayError as error:
        return [*found, Finding("state", False, str(error))]
    try:
        found.append(Finding("store", True, "its schema is this version's"))
        found.append(_attempt("ledger", lambda: _ledger(state, args.entries, quiet=args.json)))
        found.append(_attempt("hosts", lambda: _hosts(state)))
        found += _certificates(state)
    finally:
        state.database.close()
    found += pinned.pinned(config.policy.evidence, now_ms())
    if config.metrics.listen is not None:
        found.append(_metrics(config.metrics.listen))
    return found


def _certificates(state: State) -> list[Finding]:
    config, read, now = state.config, state.database.read, now_ms()
    authority_pem = state.authority.certificate_pem
    return [
        pinned.authority(state, now),
        pinned.listener("enrolment", config.enrolment, authority_pem, now),
        pinned.listener("attestation", config.attestation, authority_pem, now),
        read(lambda c: pinned.client_certificates(c, now)),
        read(
            lambda c: pinned.ocsp_answers(c, config.policy.evidence, now, asks=config.ocsp.enabled)
        ),
    ]


def _attempt(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except AssayError as error:
        return Finding(what, False, str(error))


def _ledger(state: State, entries: int, *, quiet: bool) -> str:
    newest = state.database.read(newest_position)
    if newest is None:
        return "empty"
    first = max(0, newest + 1 - entries) if entries else 0
    keys = (state.ledger_key.public_key,)
    with Progress(transient=True, disable=quiet, console=Console(stderr=True)) as progress:
        task = progress.add_task("ledger", total=newest + 1 - first)
        count = state.database.read(
            lambda c: check_ledger(
                c,
                keys,
                first=first,
                progress=lambda at: progress.update(task, completed=at - first),
            )
        )
    return (
        f"{count} of {newest + 1} entries checked: bytes, signatures, chains and heads hold, by the "
        f"key {state.ledger_key.public_key.fingerprint}"
    )


def _hosts(state: State) -> str:
    hosts = [host for host in state.database.read(list_hosts) if host.revoked_ms is None]
    now = now_ms()
    expired = [h for h in hosts if (h.certificate_expires_ms or 0) <= now]
    behind = [h for h in hosts if h.clock_behind]
    words = f"{len(hosts)} enrolled"
    if expired:
        words += (
            f"; {len(expired)} with an expired certificate, which they renew by themselves "
            f"within 90 days: {_name(expired[0].host_id)}"
        )
    if behind:
        words += f"; {len(behind)} with a clock that is behind: {_name(behind[0].host_id)}"
    heard = [h.received_ms for h in hosts if h.received_ms is not None]
    if heard:
        words += f"; last heard from one {format_duration(max(0, now - max(heard)))} ago"
    return words


def _name(host_id: str) -> str:
    return f"{host_id} first"


def _metrics(listener: str) -> Finding:
    name, port = split_endpoint(listener, "metrics.listen")
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)  # noqa: S104 - not bound, dialled
    try:
        with socket.create_connection((name, port), timeout=_CONNECT_S):
            return Finding("metrics listener", True, f"{listener} answers")
    except OSError as error:
        return Finding(
            "metrics listener",
            False,
            f"{listener} does not answer ({error.strerror or error}): is `assay-valuer "
            "run` running?",
        )
