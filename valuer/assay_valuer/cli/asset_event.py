"""`assay-valuer asset propose`, `sign`, `refuse`, `withdraw` and `events`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from assay_core import envelope_json
from assay_core.asset_events import AssetEvent, Inspection, Kind, StatedValue, Subject
from assay_core.errors import FileError
from assay_core.instants import format_instant, parse_duration, parse_instant
from assay_core.money import Usd
from assay_core.seal import Envelope, sign_envelope
from assay_core.signatories import Verdict
from assay_valuer.cli.common import (
    OK,
    Commands,
    add_command,
    now_ms,
    opened,
    print_json,
    print_table,
    read_text,
    say,
)
from assay_valuer.events import (
    Proposal,
    State,
    list_proposals,
    proposal,
    propose,
    refuse,
    sign,
    withdraw,
)
from assay_valuer.events.draft import countersign, decide, new_nonce, read_event, unsigned
from assay_valuer.parties import read_key

LISTED_DEFAULT = 100


def add_parsers(group: Commands) -> None:
    """Registers the commands."""
    _add_propose(group)
    signing = add_command(
        group,
        "sign",
        "sign a proposal; it takes effect once all who must have signed",
        "assay-valuer asset sign 12 --key alice.key",
    )
    signing.set_defaults(run=run_sign)
    refusing = add_command(
        group,
        "refuse",
        "refuse a proposal, by the word of one whose signature it needs",
        "assay-valuer asset refuse 12 --key alice.key --why 'no invoice for the new card'",
    )
    refusing.set_defaults(run=run_refuse)
    withdrawing = add_command(
        group,
        "withdraw",
        "withdraw a proposal, by the word of one of the side that made it",
        "assay-valuer asset withdraw 12 --key bob.key --why 'the card came back to life'",
    )
    withdrawing.set_defaults(run=run_withdraw)
    for parser in (signing, refusing, withdrawing):
        parser.add_argument("id", metavar="ID", type=int, help="see `assay-valuer asset events`")
        parser.add_argument("--key", required=True, type=Path, metavar="FILE", help="a party's key")
        parser.add_argument("--json", action="store_true", help="for machines")
    for parser in (refusing, withdrawing):
        parser.add_argument("--why", required=True, help="kept in the ledger for ever")
    listing = add_command(
        group, "events", "list what was proposed and decided", "assay-valuer asset events --open"
    )
    listing.add_argument("--open", action="store_true", help="only what waits for a signature")
    listing.add_argument("--id", type=int, metavar="ID", help="this one, as the envelope it is")
    listing.add_argument("--json", action="store_true", help="for machines")
    listing.add_argument(
        "--limit", type=int, default=LISTED_DEFAULT, metavar="N", help="newest (100)"
    )
    listing.set_defaults(run=run_events)


def _add_propose(group: Commands) -> None:
    proposing = add_command(
        group,
        "propose",
        "propose what is to become of assets or a host, signed by a party's key",
        "assay-valuer asset propose gpu_replacement --serial 165092 --part 692-2G520 "
        "--new-serial 165093 --new-part 692-2G520 --until 14d --why 'RMA 1234' --key bob.key",
    )
    proposing.add_argument(
        "kind",
        nargs="?",
        choices=[kind.value for kind in Kind],
        metavar="KIND",
        help=", ".join(kind.value for kind in Kind),
    )
    proposing.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="an event instead, as written by hand (YAML or JSON), or signed with `party sign`",
    )
    for option, what in (
        ("--serial", "a GPU; again for more"),
        ("--part", "its board part number, one for each or one for all"),
        ("--new-serial", "what takes its place, in the same order"),
        ("--new-part", "and that one's board part number"),
        ("--lift", "a freeze that a re_enrol lifts; none: all"),
    ):
        proposing.add_argument(option, action="append", default=[], metavar="S", help=what)
    for option, meta, what in (
        ("--host", "HOST_ID", "the host"),
        ("--to-host", "HOST_ID", "where the GPUs go on"),
        ("--to-site", "SITE", "where the GPUs or the host go on"),
        ("--holder", "HOST_ID", "re_enrol: which host rightly has the GPUs"),
        ("--loan", "ID", "release, redemption: of which loan"),
        ("--begin", "TIME", "when it begins, RFC 3339 (now)"),
        (
            "--until",
            "24h",
            (
                "how long it lasts; custody: how long the inspection is good; "
                "value_override: how long it stands"
            ),
        ),
        ("--inspector", "NAME", "custody: who looked"),
        ("--inspected", "TIME", "custody: when, RFC 3339"),
        ("--document", "SHA256", "custody: of the inspection's document"),
        ("--fmv", "USD", "value_override: what each of the GPUs is worth, fair market value"),
        ("--why", "WORDS", "kept in the ledger for ever"),
    ):
        proposing.add_argument(option, metavar=meta, help=what)
    proposing.add_argument(
        "--key", type=Path, metavar="FILE", help="a party's key; not needed with a signed --file"
    )
    proposing.add_argument("--json", action="store_true", help="for machines")
    proposing.set_defaults(run=run_propose)


def run_propose(args: argparse.Namespace) -> int:
    """Keeps it; says what it waits for, or that it took effect."""
    now = now_ms()
    envelope = _drafted(args, now)
    if args.key is not None:
        envelope = countersign(envelope, read_key(args.key))
    elif not envelope.signatures:
        raise FileError("--key: an event is proposed by one who signs it: name a party's key")
    with opened(args) as state:
        done = state.database.write(
            lambda c: propose(
                c, envelope, policy=state.config.policy, signer=state.ledger_key, now_ms=now
            )
        )
    return _told(args, done)


def run_sign(args: argparse.Namespace) -> int:
    """Over the exact bytes that are kept."""
    key, now = read_key(args.key), now_ms()
    with opened(args) as state:
        one = state.database.read(lambda c: proposal(c, args.id))
        envelope = sign_envelope(one.envelope.payload_type, one.payload, key)
        done = state.database.write(
            lambda c: sign(
                c,
                args.id,
                envelope.signatures[0],
                policy=state.config.policy,
                signer=state.ledger_key,
                now_ms=now,
            )
        )
    return _told(args, done)


def run_refuse(args: argparse.Namespace) -> int:
    """By a signed decision."""
    return _end(args, Verdict.REFUSED)


def run_withdraw(args: argparse.Namespace) -> int:
    """By a signed decision."""
    return _end(args, Verdict.WITHDRAWN)


def _end(args: argparse.Namespace, verdict: Verdict) -> int:
    key, now = read_key(args.key), now_ms()
    act = refuse if verdict is Verdict.REFUSED else withdraw
    with opened(args) as state:
        one = state.database.read(lambda c: proposal(c, args.id))
        word = decide(one.sha256, verdict, args.why, key)
        done = state.database.write(
            lambda c: act(c, args.id, word, signer=state.ledger_key, now_ms=now)
        )
    return _told(args, done)


def run_events(args: argparse.Namespace) -> int:
    """A table, or JSON; of one event the envelope, as anyone can check or sign it."""
    with opened(args) as state:
        if args.id is not None:
            one = state.database.read(lambda c: proposal(c, args.id))
            print(envelope_json.dump(one.envelope), end="")
            return OK
        found = state.database.read(
            lambda c: list_proposals(c, limit=max(1, args.limit), open_only=args.open)
        )
    if args.json:
        print_json({"events": [_json(one) for one in found]})
        return OK
    now = now_ms()
    print_table(
        ("id", "kind", "state", "of", "until", "signed by", "why"),
        [
            (
                str(one.id),
                one.event.kind.value,
                "lapsed" if one.lapsed(now) else one.state.value,
                _subjects(one.event),
                "" if one.event.until_ms is None else format_instant(one.event.until_ms),
                "\n".join(f"{who.who} ({who.role})" for who in one.signed),
                f"{one.event.why}\n{one.detail}",
            )
            for one in found
        ],
        prose="why",
    )
    if not found:
        say("nothing was proposed yet; see `assay-valuer asset propose --help`")
    return OK


def _told(args: argparse.Namespace, done: Proposal) -> int:
    if args.json:
        print_json(_json(done))
    else:
        print(f"{done.event.kind} {done.id}: {done.state}")
        say(done.detail)
        if done.state is State.PROPOSED:
            say(f"its party signs with: assay-valuer asset sign {done.id} --key FILE")
    return OK


@dataclass(frozen=True, slots=True)
class _Gpus:
    assets: tuple[Subject, ...]
    replacements: tuple[Subject, ...]


def _drafted(args: argparse.Namespace, now: int) -> Envelope:
    """The event that was typed, or is in a file. Raises FileError."""
    if (args.kind is None) == (args.file is None):
        raise FileError("say what is proposed: KIND with its options, or --file")
    if args.file is not None:
        return read_event(read_text(args.file), str(args.file))
    _check_hosts(args)
    gpus = _gpus(args)
    begin = now if args.begin is None else parse_instant(args.begin)
    lasts = None if args.until is None else parse_duration(args.until)
    # Of these two, how long it lasts is said elsewhere in the event.
    windowed = args.kind not in (Kind.CUSTODY, Kind.VALUE_OVERRIDE)
    event = AssetEvent(
        kind=Kind(args.kind),
        nonce=new_nonce(),
        why=args.why or "",
        assets=gpus.assets,
        host=args.host,
        begin_ms=begin if lasts is not None and windowed else None,
        until_ms=begin + lasts if lasts is not None and windowed else None,
        replacements=gpus.replacements,
        to_host=args.to_host,
        to_site=args.to_site,
        loan=args.loan,
        holder=args.holder,
        lifts=tuple(sorted(args.lift)),
        inspection=_inspection(args, lasts) if args.kind == Kind.CUSTODY else None,
        value=_value(args, now, lasts) if args.kind == Kind.VALUE_OVERRIDE else None,
    )
    return unsigned(event)


def _check_hosts(args: argparse.Namespace) -> None:
    for option in ("host", "to_host", "holder"):
        named = getattr(args, option)
        if named is not None and not named.startswith("spiffe://"):
            raise FileError(
                f"--{option.replace('_', '-')}: {named} is no host's id, which begins with "
                "spiffe://; see `assay-valuer host list`"
            )


def _gpus(args: argparse.Namespace) -> _Gpus:
    assets = _subjects_of(args.serial, args.part, "--part")
    new = _subjects_of(args.new_serial, args.new_part, "--new-part")
    if new and len(new) != len(assets):
        raise FileError("--new-serial: one for each --serial, in the same order")
    if args.kind == Kind.GPU_REPLACEMENT and not new:
        raise FileError("gpu_replacement: needs --new-serial and --new-part, what takes its place")
    order = sorted(range(len(assets)), key=lambda at: assets[at])
    return _Gpus(tuple(assets[at] for at in order), tuple(new[at] for at in order) if new else ())


def _subjects_of(serials: list[str], parts: list[str], option: str) -> list[Subject]:
    if len(parts) == 1:
        parts = parts * len(serials)
    if len(parts) != len(serials):
        raise FileError(f"{option}: one for each serial number, or one for all of them")
    pairs = zip(serials, parts, strict=True)
    return [Subject(serial=serial, board_part_number=part) for serial, part in pairs]


def _inspection(args: argparse.Namespace, lasts: int | None) -> Inspection:
    if None in (args.inspector, args.inspected, args.document) or lasts is None:
        raise FileError("custody: needs --inspector, --inspected, --document and --until")
    inspected = parse_instant(args.inspected)
    return Inspection(
        inspector=args.inspector,
        inspected_ms=inspected,
        document_sha256=args.document,
        valid_until_ms=inspected + lasts,
    )


def _value(args: argparse.Namespace, now: int, lasts: int | None) -> StatedValue:
    if args.fmv is None or lasts is None:
        raise FileError("value_override: needs --fmv and --until")
    micros = Usd.parse(args.fmv).micros
    return StatedValue(fmv_usd_micros=micros, until_ms=now + lasts)


def _subjects(event: AssetEvent) -> str:
    named = [subject.serial for subject in event.assets[:4]]
    if len(event.assets) > len(named):
        named.append(f"and {len(event.assets) - len(named)} more")
    if event.host is not None:
        named.append(event.host)
    return "\n".join(named) or f"loan {event.loan}"


def _json(one: Proposal) -> dict[str, object]:
    return {
        "id": one.id,
        "state": one.state.value,
        "event": one.event,
        "sha256": one.sha256,
        "signed": [
            {"who": who.who, "role": who.role.value, "at_ms": who.signed_ms} for who in one.signed
        ],
        "lacking": [role.value for role in one.lacking],
        "proposed_ms": one.proposed_ms,
        "decided_ms": one.decided_ms,
        "detail": one.detail,
    }
