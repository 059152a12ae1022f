"""Which lines of the kernel's log are believed, and what they say."""

import pytest

from assay_agent.machine.xid_lines import Mention, mention, record

XIDS = [
    (
        "NVRM: Xid (PCI:0000:18:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        Mention("0000:18:00.0", 79),
    ),
    ("NVRM: Xid (PCI:0000:CB:00): 13, Graphics SM Warp Exception", Mention("0000:cb:00.0", 13)),
    ("NVRM: Xid (PCI:0000:b3:00.0): 154, GPU recovery", Mention("0000:b3:00.0", 154)),
    ("NVRM: Xid (PCI:10000:e1:00): 48, x", Mention("10000:e1:00.0", 48)),
    (
        "NVRM: Xid (PCI:0000:1b:00 GPU-I:05 GPU-CI:00): 31, pid=7, name=a, MMU Fault",
        Mention("0000:1b:00.0", 31),
    ),
    ("NVRM: Xid (PCI:0000:1b:00 GPU-I:05): 31, pid=7", Mention("0000:1b:00.0", 31)),
    ("NVRM: Xid (0000:01:00): 59, 0087(2c70) 00000000", Mention("0000:01:00.0", 59)),
    ("NVRM: Xid (PCI:0000:18:00): 45", Mention("0000:18:00.0", 45)),
    # A tenant must not be able to hide an Xid by the name of a process.
    ("NVRM: Xid (PCI:0000:18:00): 48, pid=1, name=\x1b[2J\x00\nx", Mention("0000:18:00.0", 48)),
    ("NVRM: Xid (PCI:0000:18:00): 48, " + "x" * 100_000, Mention("0000:18:00.0", 48)),
]
FALLEN = [
    "NVRM: GPU 0000:91:00.0: GPU has fallen off the bus.",
    "NVRM: GPU at 0000:91:00.0 has fallen off the bus.",
    "NVRM: GPU at PCI:0000:91:00: GPU has fallen off the bus",
    (
        "NVRM: The NVIDIA GPU 0000:91:00.0\nNVRM: (PCI ID: 10de:26b5) installed in this system has\n"
        "NVRM: fallen off the bus and is not responding to commands."
    ),
    (
        "NVRM: The NVIDIA GPU 0000:91:00.0\\x0aNVRM: (PCI ID: 10de:26b5) installed in this system "
        "has\\x0aNVRM: fallen off the bus and is not responding to commands."
    ),
    (
        "NVRM: The NVIDIA GPU 0000:91:00.0 (PCI ID: 10de:1e07) installed in this\n"
        "NVRM: system has fallen off the bus and is not responding to commands."
    ),
    (
        "NVRM: The NVIDIA GPU 0000:91:00.0\n               NVRM: installed in this system has\n"
        "               NVRM: fallen off the bus and is not responding to commands."
    ),
]
IMITATIONS = [
    "",
    "NVRM",
    " NVRM: Xid (PCI:0000:18:00): 79, x",
    "x: NVRM: Xid (PCI:0000:18:00): 79, x",
    "[  1.0] NVRM: Xid (PCI:0000:18:00): 79, x",
    # The longest name a process may have, where the kernel begins a line with it.
    "NVRM: Xid (PCI:[4711]: segfault at 0 ip 00007f 79, x",
    "usb 1-1: Product: NVRM: Xid (PCI:0000:18:00): 79, x",
    "usb 1-1: Product: x\nNVRM: Xid (PCI:0000:18:00): 79, x",
    "NVRM: Xid (PCI:0000:18:00): 99999999999999999999, x",
    "NVRM: Xid (PCI:0000:18:00): 12345, x",
    "NVRM: Xid (PCI:0000:18:00): 0, x",
    "NVRM: Xid (PCI:0000:18:00): 079, x",
    "NVRM: Xid (PCI:0000:18:00): -79, x",
    "NVRM: Xid (PCI:0000:18:00): ７９, x",
    "NVRM: Xid (PCI:0000:18:00): 79x",
    "NVRM: Xid (PCI:0000:18:00): 7\x009, x",
    "NVRM: Xid (PCI:0000:18:\x1b00): 79, x",
    "NVRM: Xid (PCI:0000:18:0g): 79, x",
    "NVRM: Xid (PCI:18:00): 79, x",
    "NVRM: Xid (PCI:0000:18:00 GPU-I:99999): 79, x",
    "NVRM:  Xid (PCI:0000:18:00): 79, x",
    "nvrm: xid (pci:0000:18:00): 79, x",
    "NVRM: GPU at PCI:0000:91:00: GPU-b6c3b2be-c55b-d076-fa0e-d464e4c7e08b",
    "NVRM: GPU Board Serial Number: 1653723052734",
    "NVRM: has fallen off the bus",
    "x: NVRM: GPU 0000:91:00.0: GPU has fallen off the bus.",
    "NVRM: GPU 0000:91:00.0: name=GPU has fallen off the bus",
    "nvidia-nvswitch1: SXid (PCI:0000:06:00.0): 20009, Fatal",
    (
        "NVRM: The NVIDIA GPU 0000:91:00.0\nNVRM: (PCI ID: 10de:26b5) installed in this system is\n"
        "NVRM: not supported"
    ),
]


@pytest.mark.parametrize(("text", "told"), XIDS)
def test_an_xid(text: str, told: Mention) -> None:
    assert mention(text) == told


@pytest.mark.parametrize("text", FALLEN)
def test_a_fall_in_words(text: str) -> None:
    assert mention(text) == Mention("0000:91:00.0", 79, fallen=True)


@pytest.mark.parametrize("text", IMITATIONS)
def test_an_imitation(text: str) -> None:
    assert mention(text) is None


def test_no_text_takes_long() -> None:
    """Patterns that repeat within repetitions would not end on these."""
    for text in ("NVRM: The NVIDIA GPU 0000:91:00.0" + "\\x0a" * 400, "NVRM: " * 10_000):
        assert mention(text) is None


def test_records() -> None:
    said = record(b"4,339,5140900,-,caller=T1;NVRM: x; y")
    assert said is not None
    assert (said.facility, said.sequence, said.at_us, said.text) == (0, 339, 5140900, "NVRM: x; y")
    user = record(b"12,340,5140901,-;NVRM: Xid (PCI:0000:18:00): 79, x")
    assert user is not None
    assert user.facility == 1
    assert record(b"3,1,2,-;\xff\xfe") is not None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"NVRM: Xid (PCI:0000:18:00): 79, x",
        b"3,1;x",
        b"-3,1,2,-;x",
        b"3,1,99999999999999999999,-;x",
        b"3,99999999999999999999,2,-;x",
        b"3,\xd9\xa1,2,-;x",
        b"3" * 1000 + b",1,2,-;x",
    ],
)
def test_what_is_no_record(line: bytes) -> None:
    assert record(line) is None
