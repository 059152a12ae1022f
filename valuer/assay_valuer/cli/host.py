"""`assay-valuer host list` and `host revoke`."""

from __future__ import annotations

import argparse

from assay_core.instants import format_duration, format_instant
from assay_valuer.cli.common import (
    FALSE,
    OK,
    Commands,
    add_command,
    now_ms,
    opened,
    print_json,
    print_table,
    say,
)
from assay_valuer.cli.trust import ago, freezes_of
from assay_valuer.hosts import HostLine, revoke
from assay_valuer.standing.assurance import TpmState
from assay_valuer.trust_rows import HostRow, host_rows


def add_parser(commands: Commands) -> None:
    """Registers the commands."""
    group = commands.add_parser("host", help="enrolled hosts").add_subparsers(required=True)
    listing = add_command(group, "list", "list every host", "assay-valuer host list --json")
    listing.add_argument("--json", action="store_true", help="for machines")
    listing.set_defaults(run=run_list)
    revoking = add_command(
        group,
        "revoke",
        "end a host's trust for good; its open stream ends within 5 seconds",
        "assay-valuer host revoke spiffe://assay.internal/site/fra1/host/0a1b --why 'key stolen'",
    )
    revoking.add_argument("host", metavar="HOST_ID")
    revoking.add_argument("--why", required=True, help="kept in the ledger for ever")
    revoking.set_defaults(run=run_revoke)


def run_list(args: argparse.Namespace) -> int:
    """A table, or JSON."""
    with opened(args) as state:
        hosts = state.database.read(lambda c: host_rows(c, state.config.policy))
    if args.json:
        print_json({"hosts": hosts})
        return OK
    now = now_ms()
    print_table(
        (
            "host",
            "incarnation",
            "windows to",
            "heard",
            "source",
            "certificate",
            "key",
            "quoted",
            "devices",
            "state",
        ),
        [
            (
                host.host_id,
                str(host.incarnation),
                "none yet" if host.head_sequence is None else str(host.head_sequence),
                "never" if host.received_ms is None else f"{_age(now - host.received_ms)} ago",
                host.source or "",
                _certificate(host, now),
                _key(host),
                "" if host.tpm_state is TpmState.NONE else ago(host.quoted_ms, now),
                _devices(host, now),
                _state(host),
            )
            for host in hosts
        ],
        prose="state",
    )
    if not hosts:
        say("no host has enrolled yet; make a token with: assay-valuer token create")
    return OK


def run_revoke(args: argparse.Namespace) -> int:
    """Once revoked, a host never comes back."""
    with opened(args) as state:
        now = now_ms()
        changed = state.database.write(
            lambda c: revoke(c, args.host, why=args.why, signer=state.ledger_key, now_ms=now)
        )
    say(f"{args.host} is revoked" if changed else f"{args.host} was revoked already")
    return OK if changed else FALSE


def _certificate(host: HostLine, now: int) -> str:
    if host.certificate_expires_ms is None:
        return "none"
    left_ms = host.certificate_expires_ms - now
    return f"expires in {_age(left_ms)}" if left_ms > 0 else f"expired {_age(-left_ms)} ago"


def _key(host: HostRow) -> str:
    """In which TPM its key lives, and whether that counts."""
    if host.tpm is None:
        return "software"
    counts = {TpmState.SIMULATED: ", SIMULATED", TpmState.UNKNOWN: ", counts for nothing"}
    return host.tpm + counts.get(host.tpm_state, "")


def _devices(host: HostRow, now: int) -> str:
    """How many of its GPUs have answered for themselves; or why none has."""
    if not host.gpus:
        return "no GPU yet"
    if not host.devices_proved:
        return f"none answered: {host.devices_absent or 'no report has come'}"
    told = f"{host.devices_proved} of {host.gpus} answered, the oldest {ago(host.devices_ms, now)}"
    return f"{told}; {host.devices_absent}" if host.devices_absent else told


def _state(host: HostRow) -> str:
    if host.revoked_ms is not None:
        return f"REVOKED {format_instant(host.revoked_ms)}: {host.revoked_why}"
    told = (freezes_of(host.freezes), "clock behind" if host.clock_behind else "")
    return "\n".join(one for one in told if one)


def _age(duration_ms: int) -> str:
    return format_duration(max(0, duration_ms))
