"""The kernel's log as the agent follows it: from /dev/kmsg, from the journal, over restarts."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from assay_agent.machine.kernel_log import FILE, Choice, KernelLog, offered
from assay_agent.machine.kmsg import READ_BYTES, KmsgReader
from assay_agent.machine.xid_lines import Mention
from tests.fakes.machine import BOOT_ID, FakeJournal, FakeKmsg, FakeMachine, shim_address

XID_79 = Mention(shim_address(3), 79)


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path / "root")


@pytest.fixture
def kmsg(machine: FakeMachine) -> Iterator[FakeKmsg]:
    fake = machine.kmsg()
    yield fake
    fake.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FakeJournal]:
    fake = FakeJournal(tmp_path / "systemd")
    yield fake
    fake.close()


class Follower:
    """A log and what it told; one agent's life from `live` to its end."""

    def __init__(
        self,
        machine: FakeMachine,
        choice: Choice = "auto",
        *,
        state: Path | None = None,
        journal: FakeJournal | None = None,
    ) -> None:
        self.told: list[tuple[Mention, int]] = []
        self.log = KernelLog(
            machine.root,
            choice,
            lambda mention, at_ms: self.told.append((mention, at_ms)),
            state_dir=state,
            utc_ms=lambda: time.time_ns() // 1_000_000,
            command=str(journal.program) if journal else "/nonexistent/journalctl",
        )

    @property
    def codes(self) -> list[int]:
        return [mention.code for mention, _ in self.told]

    async def hear(self, count: int) -> None:
        """Until so many were told, and a moment longer: one too many would be seen too."""
        await until(lambda: len(self.told) >= count)
        await asyncio.sleep(0.05)


async def until(holds: Callable[[], bool]) -> None:
    """Looks again and again: there is nothing that could wake a test."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def live(follower: Follower, story: Callable[[], Awaitable[None]], *, save: bool = False) -> None:
    async def whole() -> None:
        follower.log.follow()
        try:
            await story()
            if save:
                follower.log.save()
        finally:
            follower.log.close()

    asyncio.run(whole())


def test_kmsg_is_followed(machine: FakeMachine, kmsg: FakeKmsg) -> None:
    kmsg.xid(0, 13, at_us=1)  # before the agent came
    follower = Follower(machine)

    async def story() -> None:
        assert follower.log.origin == "kmsg"
        kmsg.say("usb 1-1: new device")
        kmsg.say("NVRM: Xid (PCI:0000:61:00): 31, forged by a user", facility=1)
        kmsg.raw(b"garbage\n\n;;;\n \n")
        kmsg.xid(3, 79)
        kmsg.say(
            "NVRM: The NVIDIA GPU 0000:61:00.0\nNVRM: (PCI ID: 10de:2330) installed in this "
            "system has\nNVRM: fallen off the bus and is not responding to commands."
        )
        await follower.hear(2)

    live(follower, story)
    assert [mention for mention, _ in follower.told] == [
        XID_79,
        Mention(shim_address(3), 79, fallen=True),
    ]
    now_ms = time.time_ns() // 1_000_000
    assert all(now_ms - 60_000 < at_ms <= now_ms for _, at_ms in follower.told)


def test_records_in_pieces_and_beyond_every_bound(machine: FakeMachine, kmsg: FakeKmsg) -> None:
    """A FIFO may hand out half a record; /dev/kmsg never does."""
    follower = Follower(machine)

    async def story() -> None:
        kmsg.raw(b"3,1,99999999999,-;NVRM: Xid (PCI:0000:61")
        await asyncio.sleep(0.05)
        kmsg.raw(b":00): 79, x\n")
        for _ in range(6):
            kmsg.raw(b"x" * READ_BYTES)
            await asyncio.sleep(0.02)
        kmsg.raw(b"\n")
        kmsg.sequence = 1
        kmsg.xid(3, 48, at_us=99_999_999_999)
        await follower.hear(2)

    live(follower, story)
    assert follower.codes == [79, 48]


def test_records_overwritten_before_they_were_read(tmp_path: Path) -> None:
    """The kernel answers EPIPE once, and goes on with what it still has."""
    answers: list[bytes | OSError] = [
        BrokenPipeError(),
        b"3,900,5,-;NVRM: Xid (PCI:0000:61:00): 48, x\n",
        BlockingIOError(),
        b"3,901,6,-;NVRM: Xid (PCI:0000:61:00): 79, x\n",
        OSError("gone"),
    ]

    def read(_file: int, _size: int) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    told: list[int] = []
    path = tmp_path / "kmsg"
    os.mkfifo(path)
    held = os.open(path, os.O_RDWR)
    os.write(held, b"x")  # there is something to read, whatever `read` says of it

    async def story() -> None:
        reader = KmsgReader(
            str(path), lambda mention, _at: told.append(mention.code), after=5, read=read
        )
        await until(lambda: reader.ended)
        assert reader.sequence == 901

    asyncio.run(story())
    os.close(held)
    assert told == [48, 79]


def test_a_restart_neither_loses_nor_repeats(
    machine: FakeMachine, kmsg: FakeKmsg, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    first = Follower(machine, state=state)

    async def begins() -> None:
        kmsg.xid(0, 31)
        kmsg.xid(1, 43)
        await first.hear(2)

    live(first, begins, save=True)
    assert first.codes == [31, 43]
    assert (state / FILE).stat().st_mode & 0o777 == 0o600

    second = Follower(machine, state=state)

    async def goes_on() -> None:
        # A FIFO forgets what was read: the kernel's own buffer would tell the first two again.
        kmsg.sequence = 0
        kmsg.xid(0, 31)
        kmsg.xid(1, 43)
        kmsg.xid(2, 48)
        await second.hear(1)

    live(second, goes_on)
    assert second.codes == [48]


def test_another_boot_is_read_from_its_beginning(
    machine: FakeMachine, kmsg: FakeKmsg, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_text(
        json.dumps({"boot_id": "another", "origin": "kmsg", "at_ms": 1, "sequence": 900})
    )
    follower = Follower(machine, state=tmp_path)

    async def story() -> None:
        kmsg.xid(0, 62, at_us=5)  # long before the agent came
        await follower.hear(1)

    live(follower, story)
    assert follower.codes == [62]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot_id": 1}', "\xff", '{"origin": "tape"}'])
def test_a_place_that_was_kept_and_lost(
    machine: FakeMachine, kmsg: FakeKmsg, tmp_path: Path, text: str
) -> None:
    """Rather told again than never."""
    (tmp_path / FILE).write_text(text)
    follower = Follower(machine, state=tmp_path)

    async def story() -> None:
        kmsg.xid(0, 62, at_us=5)
        await follower.hear(1)

    live(follower, story, save=True)
    assert json.loads((tmp_path / FILE).read_text())["boot_id"] == BOOT_ID


def test_a_disk_that_takes_nothing(machine: FakeMachine, kmsg: FakeKmsg, tmp_path: Path) -> None:
    follower = Follower(machine, state=tmp_path / "not made")

    async def story() -> None:
        kmsg.xid(0, 62)
        await follower.hear(1)

    live(follower, story, save=True)
    assert follower.codes == [62]


def test_the_journal_is_followed(machine: FakeMachine, journal: FakeJournal) -> None:
    machine.journal()
    follower = Follower(machine, journal=journal)

    async def story() -> None:
        assert follower.log.origin == "journal"
        journal.xid(0, 13, at_ms=1)  # the last line before the agent came
        journal.xid(3, 79)
        journal.say("NVRM: Xid (PCI:0000:61:00): 31, by a user's write to /dev/kmsg", facility="1")
        journal.say("NVRM: Xid (PCI:0000:61:00): 31, by a user", transport="syslog")
        journal.say(None)
        journal.say([300, -1])
        journal.say(list(b"NVRM: Xid (PCI:0000:61:00): 48, name=\xff\x01"))
        journal.raw(b'{"__CURSOR": 1, "MESSAGE": "NVRM: x"}\nNVRM: not JSON\n\n')
        journal.raw(b'{"MESSAGE": "NVRM: ' + b"x" * 30_000)
        await asyncio.sleep(0.05)
        journal.raw(b"x" * 60_000 + b'"}\n')
        journal.xid(1, 63)
        await follower.hear(3)

    live(follower, story)
    assert follower.codes == [79, 48, 63]
    (arguments,) = journal.starts
    assert "--follow" in arguments
    assert "_TRANSPORT=kernel" in arguments
    assert f"--directory={machine.root}/var/log/journal" in arguments
    assert "--lines=1" in arguments


def test_the_journal_is_taken_up_by_its_cursor(
    machine: FakeMachine, journal: FakeJournal, tmp_path: Path
) -> None:
    """Also after a reboot: the last lines before it come too."""
    machine.journal()
    (tmp_path / FILE).write_text(
        json.dumps({"boot_id": "another", "origin": "journal", "at_ms": 1, "cursor": "s=1;i=9"})
    )
    follower = Follower(machine, journal=journal, state=tmp_path)

    async def story() -> None:
        journal.xid(3, 79, at_ms=5)
        await follower.hear(1)

    live(follower, story, save=True)
    assert "--after-cursor=s=1;i=9" in journal.starts[0]
    assert "--no-tail" in journal.starts[0]
    assert json.loads((tmp_path / FILE).read_text())["cursor"] == "s=1;i=1;b=2"


def test_a_journal_that_ends_gives_way_to_kmsg(
    machine: FakeMachine, kmsg: FakeKmsg, tmp_path: Path
) -> None:
    machine.journal()
    journal = tmp_path / "journalctl"
    journal.write_text("#!/bin/sh\nexit 1\n")
    journal.chmod(0o755)
    follower = Follower(machine, state=tmp_path)
    follower.log = KernelLog(
        machine.root,
        "auto",
        lambda mention, at_ms: follower.told.append((mention, at_ms)),
        state_dir=None,
        utc_ms=lambda: time.time_ns() // 1_000_000,
        command=str(journal),
        again_s=0.0,
    )

    async def story() -> None:
        def given_way() -> bool:
            follower.log.follow()
            return follower.log.origin == "kmsg"

        await until(given_way)
        kmsg.xid(3, 79)
        await follower.hear(1)

    live(follower, story)
    assert follower.codes == [79]


@pytest.mark.parametrize(
    ("choice", "there", "origin"),
    [
        ("auto", (True, True), "journal"),
        ("auto", (False, True), "kmsg"),
        ("auto", (False, False), "none"),
        ("journal", (False, True), "none"),
        ("kmsg", (True, True), "kmsg"),
        ("kmsg", (True, False), "none"),
        ("off", (True, True), "none"),
    ],
)
def test_where_it_is_read_from(
    machine: FakeMachine,
    tmp_path: Path,
    choice: Choice,
    there: tuple[bool, bool],
    origin: str,
) -> None:
    has_journal, has_kmsg = there
    fake = FakeJournal(tmp_path / "systemd")
    if has_journal:
        machine.journal()
    held = machine.kmsg() if has_kmsg else None
    assert offered(machine.root, choice, str(fake.program)) == origin
    follower = Follower(machine, choice, journal=fake)

    async def story() -> None:
        assert follower.log.origin == origin

    live(follower, story)
    fake.close()
    if held is not None:
        held.close()


def test_no_reader_of_the_journal_is_left(machine: FakeMachine, journal: FakeJournal) -> None:
    machine.journal()
    follower = Follower(machine, journal=journal)
    pids = []

    async def story() -> None:
        pids.append(follower.log.pid)

    live(follower, story)
    assert pids[0] is not None
    assert not Path(f"/proc/{pids[0]}").exists()
