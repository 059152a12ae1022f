"""What goes to a TPM byte by byte, and that whatever comes back is understood or named."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay_agent.tpm import commands, device, errors, machine, templates, wire
from assay_agent.tpm.signer import TpmSigner
from assay_core.errors import AssayError

RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "tpm_swtpm.json").read_text())
KEY = machine.KeyBlobs(bytes.fromhex(RECORDED["signing_public"]), b"\0\x01p")
OK = bytes.fromhex("8001 0000000a 00000000")


class Scripted:
    """A TPM that gives the answers it was told to, and keeps what it was asked."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.asked: list[bytes] = []

    def open(self) -> Scripted:
        return self

    def close(self) -> None:
        pass

    def transact(self, command: bytes) -> bytes:
        self.asked.append(command)
        if not self.answers:
            raise errors.TpmError("the script is at its end")
        return self.answers.pop(0)


def failure(code: int) -> bytes:
    return bytes.fromhex("8001 0000000a") + code.to_bytes(4, "big")


def success(body: bytes, tag: int = 0x8001) -> bytes:
    return tag.to_bytes(2, "big") + (10 + len(body)).to_bytes(4, "big") + bytes(4) + body


def test_a_command_is_as_part_1_section_18_has_it():
    flush = bytes.fromhex("8001 0000000e 00000165 80000001")
    assert wire.command(wire.Command.FLUSH_CONTEXT, (0x80000001,), (), b"") == flush
    quote = bytes.fromhex(
        "8002 0000002d 00000158"  # with sessions; 45 bytes; TPM2_Quote
        "80000000"  # the key
        "00000009 40000009 0000 00 0000"  # a password, which is empty
        "0004 deadbeef"  # qualifying data
        "0010"  # the key's own scheme
        "00000001 000b 03 810000"  # one bank, SHA-256, three bytes: PCRs 0 and 7
    )
    tpm = Scripted(failure(0x101))
    with pytest.raises(errors.TpmError):
        commands.Commands(tpm).quote(0x80000000, (7, 0, 7), bytes.fromhex("deadbeef"))
    assert tpm.asked == [quote]


def test_the_keys_asked_for_are_of_the_kind_that_others_tools_make():
    """Recorded keys, made by tpm2-tools: the same but for the key itself, and noDA on ours."""
    recorded = bytes.fromhex(RECORDED["ek_public"])
    assert recorded[2:-256] == templates.ENDORSEMENT_KEY[:-256]
    point = 2 * (2 + 32)
    expected = bytearray.fromhex(RECORDED["ak_public"])[2:-point]
    expected[6] |= 0x04  # bit 10 of the attributes, noDA
    assert templates.ATTESTATION_KEY[:-4] == bytes(expected)
    expected[5] &= 0xFE  # bit 16, restricted
    assert templates.SIGNING_KEY[:-4] == bytes(expected)


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (0x1DF, errors.Code.INTEGRITY),  # parameter 1
        (0x18B, errors.Code.HANDLE),  # handle 1
        (0x9A2, errors.Code.BAD_AUTH),  # session 1
        (0x922, errors.Code.RETRY),
        (0x921, errors.Code.LOCKOUT),
        (0x100, errors.Code.INITIALIZE),
        (0x000B0902, errors.Code.OBJECT_MEMORY),  # from the kernel's resource manager
        (0x000B0143, errors.Code.COMMAND_CODE),
    ],
)
def test_a_response_code_is_read_without_the_place_it_is_about(response, kind):
    assert errors.kind(response) == kind
    told = errors.refused("load", response)
    assert (told.code, hex(response) in str(told)) == (kind, True)


def test_every_answer_that_is_no_success_is_named():
    for answer, words in (
        (b"", "not as long as it says"),
        (OK[:9], "not as long as it says"),
        (OK + b"\0", "not as long as it says"),
        (bytes.fromhex("8001 00000009 00000000"), "no TPM 2.0"),
        (bytes.fromhex("8001 ffffffff 00000000"), "no TPM 2.0"),
        (bytes.fromhex("00c4 0000000a 0000001e"), "TPM 1.2"),
        (bytes.fromhex("1234 0000000a 00000000"), "tag"),
        (success(b"", 0x8002), "tag"),
        (success(b"\0\x20"), "cut short"),
        (failure(0x921), "--clear-lockout"),
        (failure(0x084), "value"),
        (failure(0x0DD), r"part 2 §6\.6"),
    ):
        with pytest.raises(errors.TpmError, match=words):
            commands.Commands(Scripted(answer)).read_public(0x81010001)
    assert commands.Commands(Scripted(failure(0x18B))).read_public(0x81010001) is None


def test_a_tpm_that_puts_us_off_is_asked_again_and_not_for_ever():
    waits: list[float] = []
    tpm = Scripted(failure(0x922), failure(0x90A), failure(0x908), success(b"\0\x01k"))
    assert commands.Commands(tpm, waits.append).read_public(0x81010001) == b"\0\x01k"
    assert waits == [0.01, 0.02, 0.04]
    assert len(set(tpm.asked)) == 1
    tpm = Scripted(*[failure(0x922)] * 100)
    with pytest.raises(errors.TpmBusy, match="put read_public off 24 times"):
        commands.Commands(tpm, waits.append).read_public(0x81010001)
    assert max(waits) == 0.5


def test_pcrs_come_in_parts_and_a_bank_that_is_off_is_named():
    def part(bits: str, *values: bytes) -> bytes:
        body = bytes.fromhex(f"00000005 00000001 000b 03 {bits}")
        return success(body + len(values).to_bytes(4, "big") + b"".join(map(wire.sized, values)))

    one, two = bytes(32), b"\x01" * 32
    tpm = Scripted(part("010000", one), part("000100", two))
    assert commands.Commands(tpm).pcrs({0, 8}) == {0: one, 8: two}
    for answer in (part("000000"), part("010000", one, two), part("020000", one)):
        with pytest.raises(errors.TpmError, match="SHA-256 bank"):
            commands.Commands(Scripted(answer)).pcrs({0})


@pytest.mark.parametrize(
    ("stored", "certificate"),
    [
        (b"\x30\x81\x03abc" + b"\xff" * 9, b"\x30\x81\x03abc"),
        (b"\x30\x82\x00\x03abc", b"\x30\x82\x00\x03abc"),
        (b"\x30\x82\x00\x04abc", None),
        (b"\x30\x83\x00\x00\x03abc", None),
        (b"\x30\x03abc", None),
        (b"\xff" * 40, None),
        (b"\x30", None),
        (b"", None),
    ],
)
def test_a_certificate_ends_where_its_length_says(stored, certificate):
    if certificate is not None:
        assert machine._certificate(stored) == certificate
        return
    with pytest.raises(errors.TpmError, match="no certificate"):
        machine._certificate(stored)


def signature(r: bytes, s: bytes, scheme: str = "0018") -> list[bytes]:
    """The answers to a signature: parent, key, parent flushed, signature, key flushed."""
    made = bytes.fromhex(scheme + "000b") + wire.sized(r) + wire.sized(s)

    def authorised(body: bytes, handle: bytes = b"") -> bytes:
        return success(handle + len(body).to_bytes(4, "big") + body + bytes(5), 0x8002)

    parent = authorised(wire.sized(b"public"), b"\x80\0\0\0")
    return [parent, authorised(b"", b"\x80\0\0\x01"), OK, authorised(made), OK]


def test_a_signature_has_64_bytes_however_short_its_numbers_are():
    signer = TpmSigner(machine.Tpm(Scripted(*signature(b"\x01", b"\x02" * 32))), KEY)
    assert signer.sign(b"message") == bytes(31) + b"\x01" + b"\x02" * 32
    for answers in (signature(b"\x01" * 33, b"\x02"), signature(b"\x01", b"\x02", "0014")):
        tpm = Scripted(*answers)
        with pytest.raises(errors.TpmError, match=r"scheme|longer"):
            TpmSigner(machine.Tpm(tpm), KEY).sign(b"message")
        assert len(tpm.asked) == 5  # flushed all the same


def test_a_key_that_is_none_is_named():
    for public in (b"", b"\0\x04damn", bytes.fromhex(RECORDED["ek_public"])):
        with pytest.raises(errors.TpmError, match="enrol this host anew"):
            TpmSigner(machine.Tpm(Scripted()), machine.KeyBlobs(public, b""))


OPERATIONS = (
    lambda tpm: tpm.endorsement_certificates(),
    lambda tpm: tpm.endorsement_key(),
    lambda tpm: tpm.create_keys(),
    lambda tpm: tpm.create_signing_key(),
    lambda tpm: tpm.certify(machine.TpmKeys(KEY, KEY), bytes(32)),
    lambda tpm: tpm.activate(KEY, b"\0\0", b"\0\0"),
    lambda tpm: tpm.quote(KEY, {0, 7}, bytes(32)),
    lambda tpm: tpm.read_pcrs({0, 7, 23}),
    lambda tpm: tpm.sign(KEY, bytes(32)),
)
BODIES = st.one_of(
    st.binary(max_size=80),
    st.lists(st.binary(max_size=40).map(wire.sized), max_size=5).map(b"".join),
).flatmap(
    lambda body: st.sampled_from((
        success(body),
        success(bytes(4) + len(body).to_bytes(4, "big") + body, 0x8002),
        success(len(body).to_bytes(4, "big") + body, 0x8002),
    ))
)  # fmt: skip


@given(
    st.sampled_from(OPERATIONS),
    st.lists(st.one_of(st.binary(max_size=60), BODIES, st.just(OK)), max_size=9),
)
def test_whatever_a_tpm_answers_is_understood_or_named(operation, answers):
    with contextlib.suppress(AssayError):
        operation(machine.Tpm(Scripted(*answers)))


@pytest.mark.parametrize(
    "text", ["device:/dev/tpmrm0", "unix:/run/tpm.sock", "tcp:127.0.0.1:2321", "tcp:localhost:1"]
)
def test_a_place_of_a_tpm_is_read_as_it_is_written(text):
    assert str(device.Address.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    (
        *("", "/dev/tpmrm0", "device:tpmrm0", "usb:/dev/tpm", "unix:", "unix:/a\0b"),
        *("tcp:127.0.0.1", "tcp::2321", "tcp:127.0.0.1:x", "tcp:a:0", "tcp:127.0.0.1:65536"),
    ),
)
def test_what_is_no_place_of_a_tpm_is_named(text):
    with pytest.raises(ValueError, match="is no place of a TPM"):
        device.Address.parse(text)


@given(st.text(max_size=30))
def test_any_text_is_a_place_or_is_none(text):
    with contextlib.suppress(ValueError):
        assert str(device.Address.parse(text)) == text


@pytest.fixture
def line():
    mine, peer = socket.socketpair()
    mine.setblocking(False)
    transport = device.Descriptor(mine.detach(), "unix:/here", 0.05)
    yield transport, peer
    transport.close()
    peer.close()


def test_an_answer_in_pieces_is_one(line):
    transport, peer = line
    answer = success(bytes(3000))
    for part in (answer[:4], answer[4:11], answer[11:]):
        peer.send(part)
    assert transport.transact(b"question") == answer
    assert peer.recv(100) == b"question"


def test_a_tpm_that_says_nothing_is_not_waited_for_for_ever(line):
    transport, peer = line
    peer.send(OK[:9])
    with pytest.raises(errors.TpmBusy, match=r"no answer within 0\.05 s"):
        transport.transact(b"question")


def test_an_answer_of_absurd_length_is_refused_at_its_head(line):
    transport, peer = line
    peer.send(bytes.fromhex("8001 7fffffff 00000000"))
    with pytest.raises(errors.TpmError, match=r"no TPM 2\.0"):
        transport.transact(b"question")


def test_a_tpm_that_goes_away_is_named(line):
    transport, peer = line
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(errors.TpmError, match="went away"):
        transport.transact(b"question")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "tss"),
        (errno.EPERM, "tss"),
        (errno.EBUSY, "/dev/tpmrm0"),
        (errno.ENOENT, "firmware"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_the_kernel_says_is_told_with_what_to_do(number, words):
    told = device.explain(OSError(number, os.strerror(number)), "device:/dev/tpmrm0")
    assert "device:/dev/tpmrm0" in str(told)
    assert words in str(told)
