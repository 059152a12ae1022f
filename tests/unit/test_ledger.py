"""The ledger: exact bytes come back, positions have no gaps, and damage is found and named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from assay_core.errors import AssayError
from assay_core.evidence import sealed as sealing
from assay_core.evidence.origin import Origin
from assay_core.evidence.statement import Statement
from assay_core.header import Head, Source
from assay_core.leaves import Group
from assay_core.seal import EVIDENCE_TYPE, Envelope, Signature, sign_envelope
from assay_valuer.ledger.append import (
    HeadMoved,
    Run,
    append_evidence,
    append_fork,
    append_record,
    to_json,
)
from assay_valuer.ledger.body import Body, BodyError, decode, encode
from assay_valuer.ledger.check import LedgerDamaged
from assay_valuer.ledger.read import (
    StoredEvidence,
    StoredFork,
    StoredRecord,
    StoredWindow,
    chain_entries,
    entries_from,
    entry,
    evidence_of,
    followed_from,
    newest_position,
    window,
    windows_from,
)
from assay_valuer.store.schema import HOST, LEDGER_ENTRY
from tests.fakes.host import FakeHost
from tests.fakes.ledger import FakeLedger


@pytest.fixture
def ledger(tmp_path: Path):
    ledger = FakeLedger(tmp_path)
    yield ledger
    ledger.close()


def filled(ledger: FakeLedger, host: FakeHost, count: int = 3) -> list[int]:
    """A host with `count` windows stored in one run; their positions."""
    key, head, items = ledger.add(host), None, []
    for _ in range(count):
        items.append(ledger.verify(host, host.seal(), head))
        head = Head(items[-1].header.sequence, items[-1].hash)
    return ledger.append(Run(key, None, items))[0]


def test_exact_bytes_come_back(ledger: FakeLedger) -> None:
    host = FakeHost()
    key = ledger.add(host)
    sealed = host.seal()
    envelope = sealed.envelope
    odd = Envelope(  # a second signature, and hints that mean nothing, are the host's own bytes too
        envelope.payload,
        envelope.payload_type,
        (*envelope.signatures, Signature(os.urandom(70), "ключ")),
    )
    seen = ledger.verify(host, type(sealed)(odd, sealed.leaves), None)
    assert ledger.append(Run(key, None, [seen])) == [[0]]
    found = ledger.database.read(lambda c: window(c, host.host_id, 0, 0))
    assert found is not None
    assert found.sealed == type(sealed)(odd, sealed.leaves)
    assert (found.received_ms, found.observed_ms) == (seen.received_ms, seen.observed_ms)
    assert found.leaves() == seen.leaves()
    assert found.leaves()[0].content.group is Group.HOST


def test_reading_follows_from_a_position(ledger: FakeLedger) -> None:
    filled(ledger, FakeHost(), 3)
    ledger.database.write(lambda c: append_record(c, "note", to_json({"a": 1}), ledger.signer, 5))
    read = ledger.database.read
    assert [w.position for w in read(lambda c: windows_from(c, 1))] == [1, 2]
    assert [e.kind for e in read(lambda c: entries_from(c, 2))] == ["window", "note"]
    assert read(newest_position) == 3
    assert read(lambda c: entry(c, 4)) is None
    note = read(lambda c: entry(c, 3))
    assert note is not None
    assert note.body.envelope.payload == b'{"a":1}'
    assert ledger.check() == 4


def sealed_evidence(host: FakeHost) -> sealing.SealedEvidence:
    """An answer of a host that has nothing but its sealing key; its blobs are any bytes."""
    blobs = (os.urandom(4_000), b"-----BEGIN CERTIFICATE-----" + os.urandom(90))
    statement = Statement(
        host_id=host.host_id,
        incarnation=host.incarnation,
        challenge=bytes(32),
        sequence=max(0, host.sequence - 1),
        header_hash=host.previous,
        collected_ms=host.now_ms,
        source=Source.NVML,
        devices=(sealing.device(Origin.IN_BAND_NVML, *blobs),),
        devices_absent="",
        quote=None,
    )
    return sealing.seal(statement, blobs, host.signer)


def keep(ledger: FakeLedger, host: FakeHost, sealed: sealing.SealedEvidence) -> int:
    key = ledger.host(host).key
    return ledger.database.write(
        lambda c: append_evidence(
            c, sealed, host_key=key, incarnation=0, sequence=1, asked_ms=70, now_ms=80
        )
    )


def test_a_projection_follows_windows_evidence_forks_and_the_records_it_needs(
    ledger: FakeLedger,
) -> None:
    host = FakeHost()
    filled(ledger, host, 2)
    sealed = sealed_evidence(host)
    assert keep(ledger, host, sealed) == 2
    write = ledger.database.write
    for kind in ("note", "rotation", "token", "asset_event"):
        write(lambda c, k=kind: append_record(c, k, to_json({"a": k}), ledger.signer, 90))
    key = ledger.host(host).key
    host.sequence, host.previous = 0, b""
    forked = host.seal()
    write(lambda c: append_fork(c, forked, host_key=key, incarnation=0, sequence=0, now_ms=100))
    found = ledger.database.read(lambda c: followed_from(c, 1, 100))
    assert isinstance(found[0], StoredWindow)
    assert [one.position for one in found] == [1, 2, 4, 6, 7]
    assert found[1:] == [
        StoredEvidence(2, key, 0, sealed, 70, 80),
        StoredRecord(4, "rotation", b'{"a":"rotation"}', 90),
        StoredRecord(6, "asset_event", b'{"a":"asset_event"}', 90),
        StoredFork(7, key, 0, 0, 100),
    ]
    read = ledger.database.read
    assert [e.position for e in read(lambda c: followed_from(c, 2, 2))] == [2, 4]
    assert read(lambda c: evidence_of(c, host.host_id)) == found[1]
    assert read(lambda c: evidence_of(c, host.host_id, 1)) is None
    assert ledger.check() == 8


def test_a_run_from_another_head_than_the_stored_one_changes_nothing(ledger: FakeLedger) -> None:
    host, other = FakeHost(), FakeHost(seed=8, host_id="spiffe://assay.test/site/lab/host/1")
    filled(ledger, host, 2)
    key = ledger.add(other)
    head = ledger.host(host).head
    late = ledger.verify(host, host.seal(), head)
    good = ledger.verify(other, other.seal(), None)
    with pytest.raises(HeadMoved):
        ledger.append(
            Run(key, None, [good]), Run(ledger.host(host).key, Head(0, b"x" * 32), [late])
        )
    assert ledger.check() == 2
    assert ledger.host(other).head is None


def test_nothing_is_appended_for_a_revoked_host(ledger: FakeLedger) -> None:
    host = FakeHost()
    key = ledger.add(host)
    seen = ledger.verify(host, host.seal(), None)
    ledger.database.write(lambda c: c.execute(update(HOST).values(revoked_ms=1)))
    with pytest.raises(HeadMoved):
        ledger.append(Run(key, None, [seen]))
    assert ledger.check() == 0


@pytest.mark.parametrize("damage", ["signature", "blobs", "place"])
def test_damaged_evidence_is_found(ledger: FakeLedger, damage: str) -> None:
    host, other = FakeHost(), FakeHost(seed=8)
    filled(ledger, host, 2)
    sealed = sealed_evidence(host)
    if damage == "signature":
        sealed = sealing.SealedEvidence(
            sign_envelope(EVIDENCE_TYPE, sealed.envelope.payload, other.signer), sealed.blobs
        )
    elif damage == "blobs":
        sealed = sealing.SealedEvidence(sealed.envelope, (sealed.blobs[0], b"other"))
    else:
        host.host_id = "spiffe://assay.test/site/lab/host/2"
        sealed = sealed_evidence(host)
        host.host_id = "spiffe://assay.test/site/lab/host/0"
    assert keep(ledger, host, sealed) == 2
    with pytest.raises(LedgerDamaged, match="position 2: ") as caught:
        ledger.check()
    words = {"signature": "signed", "blobs": "reports", "place": "another host"}
    assert words[damage] in str(caught.value)


def test_a_fork_is_kept_once(ledger: FakeLedger) -> None:
    host = FakeHost()
    filled(ledger, host, 1)
    host.sequence, host.previous = 0, b""
    forked = host.seal()

    def keep(connection):
        return append_fork(
            connection, forked, host_key=1, incarnation=0, sequence=0, now_ms=host.now_ms
        )

    assert ledger.database.write(keep) == 1
    assert ledger.database.write(keep) is None
    assert ledger.check() == 2
    assert [kind for _, kind, _, _ in ledger.database.read(
        lambda c: list(chain_entries(c, 1, 0, 0))
    )] == ["window"]  # fmt: skip


def _alter_leaf(connection) -> None:
    row = connection.execute(LEDGER_ENTRY.select().where(LEDGER_ENTRY.c.position == 1)).one()
    body = decode(row.body)
    leaf = body.leaves[1][:-1] + bytes([body.leaves[1][-1] ^ 1])
    altered = Body(body.envelope, (body.leaves[0], leaf, *body.leaves[2:]), body.observed_ms)
    connection.execute(
        update(LEDGER_ENTRY).where(LEDGER_ENTRY.c.position == 1).values(body=encode(altered))
    )


def _swap(connection) -> None:
    for before, after in ((0, 100), (1, 0), (100, 1)):
        connection.execute(
            update(LEDGER_ENTRY).where(LEDGER_ENTRY.c.position == before).values(position=after)
        )


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda c: c.execute(delete(LEDGER_ENTRY).where(LEDGER_ENTRY.c.position == 1)), "missing"),
        (
            lambda c: c.execute(
                update(LEDGER_ENTRY).where(LEDGER_ENTRY.c.position == 1).values(hash=b"0" * 32)
            ),
            "position 1: its bytes are not",
        ),
        (
            lambda c: c.execute(
                update(LEDGER_ENTRY).where(LEDGER_ENTRY.c.position == 1).values(sequence=9)
            ),
            "position 1: the window is indexed at another place",
        ),
        (_alter_leaf, "position 1: the window's leaves are not under"),
        (_swap, "position 0: sequence 1 stands where 0"),
        (
            lambda c: c.execute(update(HOST).values(head_sequence=1)),
            "the head of .* is 1, its chain ends at 2",
        ),
        (
            lambda c: c.execute(
                update(LEDGER_ENTRY).where(LEDGER_ENTRY.c.position == 1).values(body=b"\x01junk")
            ),
            "damaged",
        ),
    ],
)
def test_damage_is_found_and_named(ledger: FakeLedger, harm, named: str) -> None:
    filled(ledger, FakeHost(), 3)
    assert ledger.check() == 3
    ledger.database.write(harm)
    with pytest.raises(LedgerDamaged, match=named):
        ledger.check()


def test_a_record_that_another_key_signed_is_found(ledger: FakeLedger) -> None:
    stranger = FakeHost().signer
    ledger.database.write(lambda c: append_record(c, "loan", b"{}", stranger, 1))
    with pytest.raises(LedgerDamaged, match="loan record is not signed by the ledger key"):
        ledger.check()


def test_a_body_of_another_format_is_refused() -> None:
    data = encode(Body(FakeHost().seal().envelope))
    assert decode(data).envelope == FakeHost().seal().envelope
    with pytest.raises(BodyError, match="format 02"):
        decode(b"\x02" + data[1:])
    assert issubclass(BodyError, AssayError)


def test_a_day_of_a_gpu_fits_its_budget(tmp_path: Path) -> None:
    """ledger_kb_per_gpu_day: at most 60, at 288 windows of 8 GPUs a day, indexes included."""
    ledger = FakeLedger(tmp_path)
    host, days = FakeHost(seed=99), 1
    ledger.database.close()  # the last one out empties the write-ahead log into the file
    empty = (tmp_path / "valuer.db").stat().st_size
    filled(ledger, host, 288 * days)
    ledger.database.read(lambda c: None)
    ledger.close()
    size = sum(path.stat().st_size for path in tmp_path.glob("valuer.db"))
    assert (tmp_path / "valuer.db-wal").exists() is False
    assert (size - empty) / 1024 / 8 / days <= 60
    assert size / 1024 / 8 / days > 20  # it is the real thing that was measured
