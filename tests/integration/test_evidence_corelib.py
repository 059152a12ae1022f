"""Evidence through corelib: the one-shot program over a real socket, a test double of NVIDIA's
library in C behind it, and the verifier that anyone has.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from assay_agent.config import EvidenceConfig
from assay_agent.evidence.collector import Answer, Collected, Unobtainable
from assay_agent.evidence.collectors import collect, make_collectors
from assay_agent.evidence.corelib_collector import CorelibCollector
from assay_agent.evidence.why import Why
from assay_agent.telemetry.nvml import NvmlSource
from assay_core.evidence import chain, nvidia
from assay_core.evidence.origin import Origin
from tests.fakes.attesting import (
    CHAIN_SPDM,
    COUNT,
    ONE_SHOT,
    REPORT,
    DeviceAuthority,
    corelib_env,
    socket_unit,
)
from tests.fakes.nvidia import NOW_MS, request, response
from tests.fakes.shim import build_shim

NONCE = bytes(range(32))
GPUS = 3
AARCH64 = (183).to_bytes(2, "little")


@pytest.fixture
def authority() -> Iterator[DeviceAuthority]:
    with DeviceAuthority(GPUS) as serving:
        yield serving


def ask(env: dict[str, str], nonce: bytes = NONCE) -> tuple[Answer, ...]:
    with socket_unit(env) as (path, _):
        return asyncio.run(CorelibCollector(path).collect(nonce))


def library(folder: Path, old: bytes = b"", new: bytes = b"", machine: bytes = b"") -> Path:
    """Our libcorelib.so.1 in `folder`, with some of its bytes replaced."""
    folder.mkdir()
    data = (build_shim() / "corelib" / "libcorelib.so.1").read_bytes().replace(old, new)
    (folder / "libcorelib.so.1").write_bytes(data[:18] + (machine or data[18:20]) + data[20:])
    return folder


def verified(answer: Answer, authority: DeviceAuthority) -> nvidia.Proof:
    assert isinstance(answer, Collected), answer
    evidence = nvidia.Evidence(answer.report, chain.read(answer.chain_pem))
    return nvidia.verify(evidence, nonce=NONCE, now_ms=NOW_MS, roots=authority.maker.roots)


def fault_of(answers: tuple[Answer, ...]) -> Unobtainable:
    (answer,) = answers
    assert isinstance(answer, Unobtainable)
    assert answer.origin is Origin.IN_BAND_CORELIB
    return answer


def test_every_gpu_answers_the_nonce_and_is_verified(authority: DeviceAuthority) -> None:
    with socket_unit(corelib_env(authority)) as (path, started):

        async def story() -> tuple[Answer, ...]:
            source = NvmlSource(1_000)
            return await collect(make_collectors(EvidenceConfig(corelib=path), source), NONCE)

        answers = asyncio.run(story())
        (program,) = started
        assert program.wait(20) == 0
    assert [verified(answer, authority).device.pdi for answer in answers] == [
        0x1000,
        0x1001,
        0x1002,
    ]
    assert {answer.origin for answer in answers} == {Origin.IN_BAND_CORELIB}
    assert {nonce for what, _, nonce in authority.asked if what == REPORT} == {NONCE}


def test_what_the_library_prints_is_no_part_of_the_answer(authority: DeviceAuthority) -> None:
    answers = ask({**corelib_env(authority), "ASSAY_CORELIB_PRINTS": "1"})
    assert len([verified(answer, authority) for answer in answers]) == GPUS


def test_a_report_without_opaque_data_is_evidence_all_the_same(authority: DeviceAuthority) -> None:
    """So a first try of others with a B200 is said to have come back: no versions, and signed."""
    gpu = authority.devices[0]
    authority.say(REPORT, 0, gpu.sign(request(NONCE) + response({})))
    proof = verified(ask(corelib_env(authority))[0], authority)
    assert (proof.device.pdi, proof.driver, proof.firmware_bound) == (gpu.pdi, None, False)


def test_one_gpu_fails_and_the_others_come(authority: DeviceAuthority) -> None:
    authority.say(REPORT, 1, code=5)
    first, second, third = ask(corelib_env(authority))
    assert isinstance(second, Unobtainable)
    assert second.why is Why.LIBRARY_ERROR
    assert second.gpu == "GPU at 0000:02:00.0"
    assert second.detail == "corelib_spdm_get_measurement_transcript: not supported"
    for answer in (first, third):
        verified(answer, authority)


@pytest.mark.parametrize(
    ("what", "data", "size", "why", "said"),
    [
        (REPORT, b"\xff" * 3_000, None, Why.MALFORMED, "SPDM version"),
        (REPORT, b"\xff" * 9_000, None, Why.LIBRARY_ERROR, "1 to 8192 are taken"),
        (REPORT, b"\xff", 0, Why.LIBRARY_ERROR, "0 bytes"),
        (CHAIN_SPDM, bytes(40), None, Why.MALFORMED, "no certificate"),
        (CHAIN_SPDM, bytes(52), None, Why.MALFORMED, "no certificate"),
        (CHAIN_SPDM, bytes(53), None, Why.MALFORMED, "byte 52 of the chain begins no"),
        (CHAIN_SPDM, bytes(52) + b"\x30\x82\xff\xff" + bytes(99), None, Why.MALFORMED, "cut short"),
        (CHAIN_SPDM, bytes(52) + b"\x30\x82\x00\x02ab", None, Why.MALFORMED, "PEM"),
        (CHAIN_SPDM, bytes(40_000), None, Why.LIBRARY_ERROR, "1 to 32768 are taken"),
    ],
)
def test_what_is_no_evidence_is_named(
    *, authority: DeviceAuthority, what: bytes, data: bytes, size: int | None, why: Why, said: str
) -> None:
    authority.say(what, 0, data, size=size)
    first, *others = ask(corelib_env(authority))
    assert isinstance(first, Unobtainable)
    assert (first.why, said in first.detail) == (why, True), first
    for answer in others:
        verified(answer, authority)


def test_a_report_over_another_nonce_is_named(authority: DeviceAuthority) -> None:
    authority.say(REPORT, 0, authority.devices[0].answer(bytes(32)).report)
    first = ask(corelib_env(authority))[0]
    assert isinstance(first, Unobtainable)
    assert first.why is Why.OTHER_NONCE


@pytest.mark.parametrize("count", [0, 65, 2**32 - 1])
def test_as_many_gpus_as_no_host_has(authority: DeviceAuthority, count: int) -> None:
    authority.say(COUNT, 0, size=count)
    assert fault_of(ask(corelib_env(authority))).why is Why.NO_GPU


def test_no_library(authority: DeviceAuthority, tmp_path: Path) -> None:
    assert fault_of(ask(corelib_env(authority, tmp_path))).why is Why.LIBRARY_MISSING


def test_a_library_that_lacks_a_function(authority: DeviceAuthority, tmp_path: Path) -> None:
    lacking = library(
        tmp_path / "lacking", b"corelib_spdm_get_digests", b"corelib_spdm_got_digests"
    )
    fault = fault_of(ask(corelib_env(authority, lacking)))
    assert fault.why is Why.LIBRARY_UNFIT
    assert "corelib_spdm_get_digests" in fault.detail


def test_a_library_for_other_processors(authority: DeviceAuthority, tmp_path: Path) -> None:
    other = library(tmp_path / "other", machine=AARCH64)
    fault = fault_of(ask(corelib_env(authority, other)))
    assert fault.why is Why.LIBRARY_OTHER_ARCHITECTURE
    assert str(other) in fault.detail


def test_a_library_for_our_processors_that_does_not_load(
    authority: DeviceAuthority, tmp_path: Path
) -> None:
    """Only its head is one's: that is not said to be for other processors."""
    head = (build_shim() / "corelib" / "libcorelib.so.1").read_bytes()[:64]
    (tmp_path / "libcorelib.so.1").write_bytes(head)
    assert fault_of(ask(corelib_env(authority, tmp_path))).why is Why.LIBRARY_UNFIT


def test_a_file_that_is_no_library(authority: DeviceAuthority, tmp_path: Path) -> None:
    (tmp_path / "libcorelib.so.1").write_text("not a library")
    assert fault_of(ask(corelib_env(authority, tmp_path))).why is Why.LIBRARY_UNFIT


def test_nobody_listens(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert fault_of(asyncio.run(CorelibCollector(str(path)).collect(NONCE))).why is (
        Why.SOCKET_MISSING
    )
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))  # as a listener that died leaves it
    fault = fault_of(asyncio.run(CorelibCollector(str(path)).collect(NONCE)))
    assert (fault.why, fault.detail) == (Why.SOCKET_MISSING, str(path))


def test_a_library_that_hangs_costs_its_caller_bounded_time_and_holds_one_program(
    authority: DeviceAuthority,
) -> None:
    env = {**corelib_env(authority), "ASSAY_CORELIB_HANG": "corelib_spdm_get_certificate"}

    async def story(path: str) -> tuple[Unobtainable, Unobtainable]:
        # As long as it takes to begin to hang, and then no longer.
        hangs = asyncio.create_task(CorelibCollector(path, timeout_s=3).collect(NONCE))
        first = fault_of(await hangs)
        return first, fault_of(await CorelibCollector(path).collect(NONCE))

    with socket_unit(env) as (path, started):
        first, second = asyncio.run(story(path))
        assert (first.why, first.detail) == (Why.NO_ANSWER, "within 3 s")
        assert second.why is Why.NO_ANSWER
        assert [program.poll() for program in started] == [None]
        started[0].terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            started[0].wait(1)  # what would end it inside a call does not


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("pass", Why.NO_ANSWER),
        ("import os; os.write(0, b'no JSON')", Why.BAD_ANSWER),
        ("import os; os.write(0, b'{\"gpus\": []}')", Why.BAD_ANSWER),
        ("import os; os.write(0, b'{\"gpus\": [{\"report\": \"%%\"}]}')", Why.BAD_ANSWER),
        ("import os; os.write(0, b'{\"fault\": \"bribed\"}')", Why.BAD_ANSWER),
        ("import os; os.write(0, b'{\"gpus\": [{\"root\": 1}]}')", Why.BAD_ANSWER),
        ("import socket; s = socket.socket(fileno=0)\nwhile 1: s.sendall(b'[' * 65536)",
         Why.BAD_ANSWER),
    ],
)  # fmt: skip
def test_a_program_that_answers_what_is_no_answer(program: str, why: Why) -> None:
    command = (sys.executable, "-c", f"import os\nos.read(0, 32)\n{program}")
    with socket_unit(dict(os.environ), command) as (path, _):
        assert fault_of(asyncio.run(CorelibCollector(path).collect(NONCE))).why is why


@pytest.mark.parametrize("sent", [b"", b"short", NONCE[:31]])
def test_the_program_answers_no_half_question(authority: DeviceAuthority, sent: bytes) -> None:
    ours, its = socket.socketpair()
    with ours, its:
        program = subprocess.Popen(
            ONE_SHOT, stdin=its.fileno(), env=corelib_env(authority), stderr=subprocess.PIPE
        )
        its.close()
        ours.sendall(sent)
        ours.shutdown(socket.SHUT_WR)
        assert ours.recv(1) == b""
        said = program.communicate(timeout=20)[1]
    assert (program.returncode, b"no nonce" in said) == (1, True)
    assert authority.asked == []


def test_the_answer_is_what_the_devices_said_and_nothing_else(authority: DeviceAuthority) -> None:
    """Root takes nothing apart, and adds nothing of the host."""
    ours, its = socket.socketpair()
    with ours, its:
        program = subprocess.Popen(ONE_SHOT, stdin=its.fileno(), env=corelib_env(authority))
        its.close()
        ours.sendall(NONCE)
        answer = json.loads(b"".join(iter(lambda: ours.recv(65_536), b"")))
        assert program.wait(20) == 0
    assert answer.keys() == {"gpus", "fault", "detail"}
    assert answer["fault"] is None
    for gpu in answer["gpus"]:
        assert gpu.keys() == {"about", "report", "certificates", "fault", "detail"}
