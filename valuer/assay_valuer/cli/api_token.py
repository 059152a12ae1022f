"""`assay-valuer api-token`: who may call the HTTP API."""

from __future__ import annotations

import argparse
from pathlib import Path

from assay_core.instants import format_instant, parse_duration
from assay_valuer.api.tokens import FILE, ApiToken, Scope, TokenFile
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
from assay_valuer.ledger.append import append_record, to_json
from assay_valuer.state import State

RECORD = "api_token"


def add_parser(commands: Commands) -> None:
    """Registers the commands."""
    group = commands.add_parser(
        "api-token", help="who may call the HTTP API; see docs/api.md"
    ).add_subparsers(required=True)
    creating = add_command(
        group,
        "create",
        "make a token and print it, once: hand it on as you would a password",
        "assay-valuer api-token create ledger-system --scope write --expires 90d",
    )
    creating.add_argument("name", metavar="NAME", help="whose it is: it stands in the log")
    creating.add_argument("--scope", required=True, choices=[one.value for one in Scope])
    creating.add_argument(
        "--expires", default="90d", help="how long it is good for, at most 366d (90d)"
    )
    creating.set_defaults(run=run_create)
    revoking = add_command(
        group,
        "revoke",
        "let a token open nothing from the next request on",
        "assay-valuer api-token revoke ledger-system",
    )
    revoking.add_argument("name", metavar="NAME")
    revoking.set_defaults(run=run_revoke)
    listing = add_command(
        group, "list", "list every token, ended ones too", "assay-valuer api-token list --json"
    )
    listing.add_argument("--json", action="store_true", help="for machines")
    listing.set_defaults(run=run_list)


def run_create(args: argparse.Namespace) -> int:
    """Prints the token, and nothing else, on standard output."""
    with opened(args) as state:
        now, life = now_ms(), parse_duration(args.expires)
        with _file(state).changing() as change:
            made, text = change.create(args.name, Scope(args.scope), life_ms=life, now_ms=now)
            _tell(state, made, now)
    say(f"{made.name} may {made.scope} until {format_instant(made.expires_ms)}")
    print(text)
    return OK


def run_revoke(args: argparse.Namespace) -> int:
    """What it did before stands."""
    with opened(args) as state:
        now = now_ms()
        with _file(state).changing() as change:
            ended = change.revoke(args.name, now)
            if ended is not None:
                _tell(state, ended, now)
    say(f"{args.name} opens nothing now" if ended else f"{args.name} was revoked already")
    return OK if ended else FALSE


def run_list(args: argparse.Namespace) -> int:
    """A table, or JSON; no secret is in either."""
    with opened(args) as state:
        tokens, now = _file(state).load(), now_ms()
    if args.json:
        print_json({"tokens": [_json(one) for one in tokens]})
        return OK
    print_table(
        ("token", "scope", "made", "expires", "state"),
        [
            (
                one.name,
                one.scope.value,
                format_instant(one.created_ms),
                format_instant(one.expires_ms),
                _state(one, now),
            )
            for one in tokens
        ],
    )
    if not tokens:
        say("there is no token yet; see `assay-valuer api-token create --help`")
    return OK


def _file(state: State) -> TokenFile:
    named = state.config.api.tokens_file
    return TokenFile(state.paths.state_dir / FILE if named is None else Path(named))


def _tell(state: State, token: ApiToken, now: int) -> None:
    """That a token was made or ended is in the ledger, as every decision of the lender's is."""
    record = to_json(_json(token))
    state.database.write(lambda c: append_record(c, RECORD, record, state.ledger_key, now))


def _state(token: ApiToken, now: int) -> str:
    if token.revoked_ms is not None:
        return f"revoked {format_instant(token.revoked_ms)}"
    return "good" if token.holds(now) else "expired"


def _json(token: ApiToken) -> dict[str, str | int | None]:
    return {
        "id": token.id,
        "name": token.name,
        "scope": token.scope.value,
        "created_ms": token.created_ms,
        "expires_ms": token.expires_ms,
        "revoked_ms": token.revoked_ms,
    }
