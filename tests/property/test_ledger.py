"""Whatever is appended in whatever order, the ledger's invariants hold after every step."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from assay_core.header import Head
from assay_valuer.ledger.append import (
    HeadMoved,
    Run,
    append_fork,
    append_record,
    head_after,
    next_position,
)
from assay_valuer.ledger.read import windows_from
from tests.fakes.host import FakeHost
from tests.fakes.ledger import FakeLedger


class LedgerMachine(RuleBasedStateMachine):
    """Three hosts seal, drop, fork and are reinstalled; a model knows what must be stored."""

    stale = Bundle("stale")

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.ledger = FakeLedger(self.folder)
        self.hosts = [
            FakeHost(seed=n, gpu_count=1, host_id=f"spiffe://assay.test/site/lab/host/{n}")
            for n in range(3)
        ]
        self.keys = [self.ledger.add(host) for host in self.hosts]
        self.stored: list[tuple[str, int, int]] = []
        self.entries = 0

    @rule(counts=st.lists(st.integers(0, 4), min_size=3, max_size=3))
    def windows(self, counts: list[int]) -> None:
        """A batch with runs of several hosts."""
        runs = [self._run(n, count) for n, count in enumerate(counts) if count]
        positions = self.ledger.append(*runs) if runs else []
        flat = [position for run in positions for position in run]
        assert flat == list(range(self.entries, self.entries + len(flat)))
        self.entries += len(flat)

    @rule(target=stale, n=st.integers(0, 2))
    def verified_but_not_yet_stored(self, n: int) -> tuple[int, int, Run]:
        host = self.hosts[n]
        after = self.ledger.host(host).head
        item = self.ledger.verify(host, host.seal(advance=False), after)
        return n, self.entries, Run(self.keys[n], after, [item])

    @rule(late=consumes(stale))
    def stored_late(self, late: tuple[int, int, Run]) -> None:
        """It is stored if its host's chain has not moved meanwhile, and otherwise not at all."""
        n, _, run = late
        host, header = self.hosts[n], run.items[0].header
        current = (host.incarnation, self.ledger.host(host).head)
        if current == (header.incarnation, run.after):
            self.ledger.append(run)
            self.entries += 1
            host.sequence, host.previous = header.sequence + 1, run.items[0].hash
            self.stored.append((host.host_id, header.incarnation, header.sequence))
        else:
            with pytest.raises(HeadMoved):
                self.ledger.append(run)

    @rule(n=st.integers(0, 2), dropped=st.integers(1, 3))
    def gap(self, n: int, dropped: int) -> None:
        host = self.hosts[n]
        after = self.ledger.host(host).head
        item = self.ledger.verify_gap(host, host.gap(dropped), after)
        self.ledger.append(Run(self.keys[n], after, [item]))
        self.entries += 1

    @rule(n=st.integers(0, 2))
    def fork(self, n: int) -> None:
        host = self.hosts[n]
        sealed = host.seal(advance=False)
        head = self.ledger.host(host).head
        kept = self.ledger.database.write(
            lambda c: append_fork(
                c,
                sealed,
                host_key=self.keys[n],
                incarnation=host.incarnation,
                sequence=host.sequence,
                now_ms=1,
            )
        )
        self.entries += kept is not None
        assert self.ledger.host(host).head == head

    @rule(n=st.integers(0, 2))
    def reinstall(self, n: int) -> None:
        self.ledger.reinstall(self.keys[n], self.hosts[n])

    @rule(text=st.text(max_size=40))
    def record(self, text: str) -> None:
        payload = text.encode()
        position = self.ledger.database.write(
            lambda c: append_record(c, "note", payload, self.ledger.signer, 1)
        )
        assert position == self.entries
        self.entries += 1

    @invariant()
    def ledger_holds(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert self.ledger.check() == self.entries
        assert self.ledger.database.read(next_position) == self.entries
        found = self.ledger.database.read(lambda c: windows_from(c, 0))
        assert [
            (w.header.host_id, w.header.incarnation, w.header.sequence) for w in found
        ] == self.stored

    def _run(self, n: int, count: int) -> Run:
        host = self.hosts[n]
        after: Head | None = self.ledger.host(host).head
        head, items = after, []
        for _ in range(count):
            items.append(self.ledger.verify(host, host.seal(), head))
            head = head_after(items[-1])
            self.stored.append(
                (host.host_id, items[-1].header.incarnation, items[-1].header.sequence)
            )
        return Run(self.keys[n], after, items)

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            shutil.rmtree(self.folder)


LedgerMachine.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLedger = LedgerMachine.TestCase
