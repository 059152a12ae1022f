"""`assay-valuer party`: who may sign asset events, covenants and appraisals, and their keys."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from assay_core import envelope_json
from assay_core.instants import format_instant
from assay_core.seal import APPRAISAL_TYPE, ASSET_EVENT_TYPE, COVENANT_TYPE
from assay_core.signatories import Role
from assay_valuer.cli.common import (
    FALSE,
    OK,
    Commands,
    add_command,
    now_ms,
    opened,
    print_json,
    print_table,
    read_text,
    say,
    write_file,
)
from assay_valuer.covenant_draft import read_statement
from assay_valuer.events.draft import countersign
from assay_valuer.parties import (
    Party,
    add_party,
    end_party,
    list_parties,
    new_key,
    read_key,
    read_public_key,
)

_KEEPS: Final = {
    ASSET_EVENT_TYPE: "asset propose --file",
    COVENANT_TYPE: "covenant import",
    APPRAISAL_TYPE: "appraisal import",
}


def add_parser(commands: Commands) -> None:
    """Registers the commands."""
    group = commands.add_parser(
        "party", help="lenders, operators, custodians and appraisers, who sign by keys of their own"
    ).add_subparsers(required=True)
    key = add_command(
        group,
        "key",
        "make a party's private key in a new file, and print its public key; needs no state folder",
        "assay-valuer party key alice.key",
    )
    key.add_argument("file", metavar="FILE", type=Path, help="mode 0600; never overwritten")
    key.set_defaults(run=run_key)
    adding = add_command(
        group,
        "add",
        "let a party sign from now on, in its role",
        "assay-valuer party add bob --role operator --public bob.pem --site fra1",
    )
    adding.add_argument("name", metavar="NAME")
    adding.add_argument("--role", required=True, choices=[role.value for role in Role])
    adding.add_argument(
        "--public", required=True, metavar="HEX|FILE", help="its Ed25519 public key, hex or PEM"
    )
    adding.add_argument(
        "--site",
        action="append",
        default=[],
        metavar="SITE",
        help="a site it speaks for; again for more. None: every site",
    )
    adding.set_defaults(run=run_add)
    ending = add_command(
        group,
        "end",
        "let a party's signatures count for nothing from now on",
        "assay-valuer party end bob --why 'left the company'",
    )
    ending.add_argument("name", metavar="NAME")
    ending.add_argument("--why", required=True, help="kept in the ledger for ever")
    ending.set_defaults(run=run_end)
    listing = add_command(
        group, "list", "list every party, ended ones too", "assay-valuer party list --json"
    )
    listing.add_argument("--json", action="store_true", help="for machines")
    listing.set_defaults(run=run_list)
    signing = add_command(
        group,
        "sign",
        "sign an asset event, a covenant or an appraisal in a file, where the party is; needs no state "
        "folder",
        "assay-valuer party sign event.json --key bob.key --out signed.json",
    )
    signing.add_argument(
        "file", metavar="FILE", type=Path, help="as written by hand, or as signed before"
    )
    signing.add_argument("--key", required=True, type=Path, metavar="FILE")
    signing.add_argument("--out", required=True, type=Path, metavar="FILE")
    signing.set_defaults(run=run_sign)


def run_key(args: argparse.Namespace) -> int:
    """Prints the public key, and nothing else, on standard output."""
    key = new_key(args.file)
    say(f"made {args.file}; whoever has it signs as its party: keep it where that party is")
    print(key.data.hex())
    return OK


def run_add(args: argparse.Namespace) -> int:
    """Registers it."""
    given: str = args.public
    text = read_text(Path(given)) if Path(given).is_file() else given
    party = Party(
        args.name, Role(args.role), read_public_key(text), tuple(args.site), now_ms(), None
    )
    with opened(args) as state:
        state.database.write(lambda c: add_party(c, party, state.ledger_key, party.added_ms))
    where = ", ".join(party.sites) or "every site"
    say(f"{party.name} signs as {party.role} for {where}, with the key {party.key.fingerprint}")
    return OK


def run_end(args: argparse.Namespace) -> int:
    """What the party signed before stands where it took effect."""
    with opened(args) as state:
        now = now_ms()
        changed = state.database.write(
            lambda c: end_party(c, args.name, why=args.why, signer=state.ledger_key, now_ms=now)
        )
    say(f"{args.name} is no party any more" if changed else f"{args.name} had ended already")
    return OK if changed else FALSE


def run_list(args: argparse.Namespace) -> int:
    """A table, or JSON."""
    with opened(args) as state:
        parties = state.database.read(list_parties)
    if args.json:
        print_json({"parties": [_json(party) for party in parties]})
        return OK
    print_table(
        ("party", "role", "sites", "added", "ended", "key"),
        [
            (
                party.name,
                party.role.value,
                ", ".join(party.sites) or "all",
                format_instant(party.added_ms),
                "" if party.ended_ms is None else format_instant(party.ended_ms),
                party.key.fingerprint[:16],
            )
            for party in parties
        ],
    )
    if not parties:
        say("there is no party yet; make a key with: assay-valuer party key FILE")
    return OK


def run_sign(args: argparse.Namespace) -> int:
    """Adds a signature to what the file holds, and writes the envelope."""
    statement = read_statement(read_text(args.file), str(args.file))
    write_file(args.out, envelope_json.dump(countersign(statement, read_key(args.key))))
    keep = _KEEPS[statement.payload_type]
    say(f"signed; hand {args.out} on, or keep it with: assay-valuer {keep}")
    return OK


def _json(party: Party) -> dict[str, object]:
    return {
        "name": party.name,
        "role": party.role.value,
        "public_key": party.key.data.hex(),
        "fingerprint": party.key.fingerprint,
        "sites": party.sites,
        "added_ms": party.added_ms,
        "ended_ms": party.ended_ms,
    }
