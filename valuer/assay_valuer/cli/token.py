"""`assay-valuer token create`: leave for hosts to enrol."""

from __future__ import annotations

import argparse

from assay_core.errors import FileError
from assay_core.instants import format_instant, parse_duration
from assay_valuer.cli.common import OK, Commands, add_command, now_ms, opened, say
from assay_valuer.config import ListenerConfig
from assay_valuer.tokens import Terms, create_token


def add_parser(commands: Commands) -> None:
    """Registers the command."""
    group = commands.add_parser("token", help="enrolment tokens").add_subparsers(required=True)
    parser = add_command(
        group,
        "create",
        "make a token and print it, once: hand it to the operator as you would a password",
        "assay-valuer token create --hosts 16 --site fra1 --expires 24h",
    )
    parser.add_argument("--hosts", type=int, default=1, help="how many hosts may use it (1)")
    parser.add_argument("--site", default="default", help="the site they are at (default)")
    parser.add_argument(
        "--expires", default="24h", help="how long it is good for, such as 30m or 7d (24h)"
    )
    parser.add_argument(
        "--host",
        metavar="HOST_ID",
        help="enrol this existing host anew, as its next incarnation, after a reinstallation",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the token, and nothing else, on standard output."""
    with opened(args) as state:
        now = now_ms()
        terms = Terms(args.site, args.hosts, now + parse_duration(args.expires), args.host)
        token = state.database.write(
            lambda c: create_token(
                c,
                terms,
                endpoint=public_endpoint(state.config.enrolment),
                authority_pem=state.authority.certificate_pem,
                signer=state.ledger_key,
                now_ms=now,
            )
        )
    hosts = "1 host" if terms.hosts_max == 1 else f"{terms.hosts_max} hosts"
    say(f"good for {hosts} until {format_instant(terms.expires_ms)}")
    print(token)
    return OK


def public_endpoint(listener: ListenerConfig) -> str:
    """What hosts are told. Raises FileError where only the running service knows its port."""
    endpoint = listener.public or listener.listen
    if endpoint.endswith(":0"):
        raise FileError("enrolment.public: is needed where enrolment.listen takes any free port")
    return endpoint
