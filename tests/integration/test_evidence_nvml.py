"""Evidence through NVML: NVIDIA's unmodified binding over the test driver library, whose GPUs sign
as NVIDIA's do under a root of our own, and the verifier that anyone has.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from assay_agent.config import EvidenceConfig
from assay_agent.evidence.collector import Answer, Collected, Unobtainable
from assay_agent.evidence.collectors import absent, collect, collected, make_collectors
from assay_agent.evidence.why import Why
from assay_agent.telemetry.attestor import Attestor
from assay_agent.telemetry.nvml import NvmlSource
from assay_agent.telemetry.surroundings import Surroundings
from assay_core.evidence import chain, nvidia
from assay_core.evidence.origin import Origin
from assay_core.leaves import DriverState, Reason
from tests.fakes.attesting import CHAIN_PEM, REPORT, DeviceAuthority
from tests.fakes.machine import FakeMachine, shim_address
from tests.fakes.nvidia import NOW_MS
from tests.fakes.shim import ShimScenario

NONCE = bytes(range(32))
OTHER_NONCE = bytes(32)
TIMEOUT_MS, FAST_MS = 10_000, 2_000
SIGNS = "nvmlDeviceGetConfComputeGpuAttestationReport"
CERTIFIES = "nvmlDeviceGetConfComputeGpuCertificate"
GPUS = 4

Story = Callable[[NvmlSource], Awaitable[None]]


@pytest.fixture
def authority() -> Iterator[DeviceAuthority]:
    with DeviceAuthority(GPUS) as serving:
        yield serving


@pytest.fixture
def shim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: DeviceAuthority
) -> ShimScenario:
    """Four H100 in confidential-computing mode."""
    scenario = ShimScenario(tmp_path, gpus=GPUS)
    scenario.host.set(cc_feature=1, cc_environment=2, cc_ready=1)
    monkeypatch.setenv("ASSAY_SHIM_EVIDENCE", authority.socket)
    for key, value in scenario.env({}).items():
        monkeypatch.setenv(key, value)
    return scenario


def play(story: Story, timeout_ms: int = TIMEOUT_MS, host_root: str = "/") -> None:
    async def whole() -> None:
        source = NvmlSource(timeout_ms, (50, 200), host_root)
        try:
            await story(source)
        finally:
            await source.close()

    asyncio.run(whole())


async def ask(source: NvmlSource, nonce: bytes = NONCE) -> tuple[Answer, ...]:
    return await collect(make_collectors(EvidenceConfig(nvml=True), source), nonce)


def ask_once(nonce: bytes = NONCE, timeout_ms: int = TIMEOUT_MS) -> tuple[Answer, ...]:
    found: list[Answer] = []

    async def story(source: NvmlSource) -> None:
        found.extend(await ask(source, nonce))

    play(story, timeout_ms)
    return tuple(found)


def verified(answer: Answer, authority: DeviceAuthority, nonce: bytes = NONCE) -> nvidia.Proof:
    assert isinstance(answer, Collected), answer
    evidence = nvidia.Evidence(answer.report, chain.read(answer.chain_pem))
    return nvidia.verify(evidence, nonce=nonce, now_ms=NOW_MS, roots=authority.maker.roots)


def refused(answers: tuple[Answer, ...]) -> list[Unobtainable]:
    return [answer for answer in answers if isinstance(answer, Unobtainable)]


def only_fault(answers: tuple[Answer, ...], slot: int, authority: DeviceAuthority) -> Unobtainable:
    """The one GPU that gave none; the others' evidence holds."""
    for place, answer in enumerate(answers):
        if place != slot:
            assert verified(answer, authority).device.pdi == authority.devices[place].pdi
    fault = answers[slot]
    assert isinstance(fault, Unobtainable)
    return fault


def test_every_gpu_answers_the_nonce_and_is_verified(
    shim: ShimScenario, authority: DeviceAuthority
) -> None:
    async def story(source: NvmlSource) -> None:
        first, second = await ask(source), await ask(source, OTHER_NONCE)
        assert [verified(a, authority).device.pdi for a in first] == [
            device.pdi for device in authority.devices
        ]
        assert len({verified(a, authority).device.identity for a in first}) == GPUS
        for answer in second:
            assert verified(answer, authority, OTHER_NONCE).nonce == OTHER_NONCE
        assert {answer.origin for answer in (*first, *second)} == {Origin.IN_BAND_NVML}
        assert absent(first) == ""
        assert source.abandoned == ()

    play(story)
    assert [nonce for what, _, nonce in authority.asked if what == REPORT] == (
        [NONCE] * GPUS + [OTHER_NONCE] * GPUS
    )


def test_protected_pcie_is_a_mode_in_which_gpus_sign(
    shim: ShimScenario, authority: DeviceAuthority
) -> None:
    shim.host.set(cc_feature=0, cc_multi_gpu=1)
    assert len({verified(a, authority).device.pdi for a in ask_once()}) == GPUS


def test_with_confidential_computing_off_each_gpu_says_so(
    shim: ShimScenario, authority: DeviceAuthority
) -> None:
    shim.host.set(cc_feature=0)
    answers = ask_once()
    assert [fault.why for fault in refused(answers)] == [Why.CC_OFF] * GPUS
    assert len({fault.gpu for fault in refused(answers)}) == GPUS
    assert all(fault.gpu.startswith("GPU-") for fault in refused(answers))
    assert absent(answers) == "cc_off: 4"
    assert authority.asked == []


@pytest.mark.parametrize(
    ("code", "why"), [(4, Why.NO_PERMISSION), (13, Why.DRIVER_TOO_OLD), (999, Why.DRIVER_ERROR)]
)
@pytest.mark.parametrize("function", [SIGNS, CERTIFIES])
def test_one_gpu_fails_and_the_others_come(
    shim: ShimScenario, authority: DeviceAuthority, function: str, code: int, why: Why
) -> None:
    shim.gpu(2).fail(function, code=code)
    fault = only_fault(ask_once(), 2, authority)
    assert fault.why is why
    assert f"NVML code {code}" in fault.detail
    assert ("report" if function == SIGNS else "certificate") in fault.detail


def test_a_gpu_of_before_hopper_signs_nothing(
    shim: ShimScenario, authority: DeviceAuthority
) -> None:
    shim.gpu(1).set(profile="l40s")
    assert only_fault(ask_once(), 1, authority).why is Why.NOT_SUPPORTED


def test_a_lost_gpu_takes_no_other_with_it(shim: ShimScenario, authority: DeviceAuthority) -> None:
    shim.gpu(1).lose()
    answers = ask_once()
    assert len(collected(answers)) == GPUS - 1
    assert [fault.why for fault in refused(answers)] == [Why.GPU_LOST]


def test_a_driver_that_is_older_than_the_calls(shim: ShimScenario) -> None:
    shim.host.set(driver_version="470.256.02")
    assert [fault.why for fault in refused(ask_once())] == [Why.DRIVER_TOO_OLD] * GPUS


def test_without_a_driver_there_is_one_reason_for_all(
    shim: ShimScenario, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shim.unload_driver()
    (fault,) = refused(ask_once())
    assert (fault.why, fault.gpu) == (Why.DRIVER_ABSENT, "")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    (fault,) = refused(ask_once())
    assert fault.why is Why.DRIVER_ABSENT


def test_no_gpu_is_a_reason_too(shim: ShimScenario) -> None:
    shim.host.set(gpus=0)
    (fault,) = refused(ask_once())
    assert fault.why is Why.NO_GPU


def test_what_is_no_certificate_is_named(shim: ShimScenario, authority: DeviceAuthority) -> None:
    shim.gpu(0).set(attestation_certificate_bytes=90_000)  # more than there is room for
    fault = only_fault(ask_once(), 0, authority)
    assert (fault.why, "90000 bytes" in fault.detail) == (Why.MALFORMED, True)
    shim.gpu(0).set(attestation_certificate_bytes=4_000)  # the serial number, over and over
    fault = only_fault(ask_once(), 0, authority)
    assert (fault.why, "PEM" in fault.detail) == (Why.MALFORMED, True)
    shim.gpu(0).unset("attestation_certificate_bytes")
    authority.say(CHAIN_PEM, 0, b"")
    assert only_fault(ask_once(), 0, authority).why is Why.MALFORMED


def test_a_chain_may_end_in_zeros(shim: ShimScenario, authority: DeviceAuthority) -> None:
    truth = authority._truth(CHAIN_PEM, 0, NONCE)
    authority.say(CHAIN_PEM, 0, truth + bytes(7))
    answer = ask_once()[0]
    assert isinstance(answer, Collected)
    assert answer.chain_pem == truth


def test_what_is_no_report_is_named(shim: ShimScenario, authority: DeviceAuthority) -> None:
    report = authority.devices[3].answer(NONCE).report
    for data, size, said in (
        (b"", None, "cut short"),
        (b"\xff" * 4_000, None, "SPDM version"),
        (report[:-1], None, "cut short"),
        (report, 9_000, "9000 bytes, more than it has room for"),
    ):
        authority.say(REPORT, 3, data, size=size)
        fault = only_fault(ask_once(), 3, authority)
        assert (fault.why, said in fault.detail) == (Why.MALFORMED, True), fault
    authority.say(REPORT, 3, authority.devices[3].answer(OTHER_NONCE).report)
    assert only_fault(ask_once(), 3, authority).why is Why.OTHER_NONCE


def test_a_gpu_that_hangs_is_named_and_polls_go_on(
    shim: ShimScenario, authority: DeviceAuthority
) -> None:
    async def story(source: NvmlSource) -> None:
        assert (await source.poll(0)).driver is DriverState.RUNNING
        shim.gpu(2).hang(SIGNS)
        async with asyncio.TaskGroup() as group:
            evidence = group.create_task(ask(source))
            while not evidence.done():
                poll = await source.poll(20)
                assert poll.driver is DriverState.RUNNING
                assert len(poll.gpus) == GPUS
        answers = evidence.result()
        assert [verified(a, authority).device.pdi for a in answers[:2]] == [0x1000, 0x1001]
        assert [fault.why for fault in refused(answers)] == [Why.DRIVER_HANGS] * 2
        assert len({fault.gpu for fault in refused(answers)}) == 2
        # It is left where it hangs, is counted, and no other joins it there.
        (left,) = source.abandoned
        assert (await source.poll(0)).abandoned_processes == 1
        begun = len(shim.calls(SIGNS))
        (fault,) = refused(await ask(source))
        assert (fault.why, fault.gpu) == (Why.DRIVER_HANGS, "")
        assert (source.abandoned, len(shim.calls(SIGNS))) == ((left,), begun)
        os.kill(left, 0)  # alive: nobody killed it
        shim.gpu(2).release()
        async with asyncio.timeout(20):
            while source.abandoned:
                await source.poll(20)
        assert len(collected(await ask(source))) == GPUS

    play(story, FAST_MS)


def test_many_slow_gpus_are_not_waited_for_without_end(shim: ShimScenario) -> None:
    """Each answers in time, and all together do not."""
    shim.every.delay(SIGNS, ms=500)

    async def story() -> None:
        attestor = Attestor(TIMEOUT_MS / 1000, "/", total_timeout_s=1.2)
        told = await attestor.attest(NONCE)
        assert told.why is Reason.DRIVER_UNRESPONSIVE
        assert len(told.gpus) + len(told.unanswered) == GPUS
        assert told.unanswered
        await attestor.pause()

    asyncio.run(story())


def test_one_question_at_a_time(shim: ShimScenario, authority: DeviceAuthority) -> None:
    shim.every.delay(SIGNS, ms=200)

    async def story(source: NvmlSource) -> None:
        both = await asyncio.gather(ask(source), ask(source, OTHER_NONCE))
        for answers, nonce in zip(both, (NONCE, OTHER_NONCE), strict=True):
            assert {verified(a, authority, nonce).nonce for a in answers} == {nonce}

    play(story)
    nonces = [nonce for what, _, nonce in authority.asked if what == REPORT]
    assert nonces in ([NONCE] * 4 + [OTHER_NONCE] * 4, [OTHER_NONCE] * 4 + [NONCE] * 4)


def test_a_pause_closes_every_handle_also_those_of_evidence(
    shim: ShimScenario, authority: DeviceAuthority
) -> None:
    shim.every.delay(SIGNS, ms=300)

    async def story(source: NvmlSource) -> None:
        evidence = asyncio.create_task(ask(source))
        await asyncio.to_thread(shim.wait_for_call, CERTIFIES)
        await source.pause()
        assert source.abandoned == ()
        answers = await evidence
        assert len(answers) == GPUS
        assert {fault.why for fault in refused(answers)} == {Why.IN_MAINTENANCE}
        asked = len(shim.calls())
        (fault,) = refused(await ask(source))
        assert (fault.why, len(shim.calls())) == (Why.IN_MAINTENANCE, asked)
        await source.resume()
        assert len(collected(await ask(source))) == GPUS

    play(story)


def test_a_gpu_that_sleeps_is_not_woken(shim: ShimScenario, tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path / "root").gpus(GPUS)
    power = f"sys/bus/pci/devices/{shim_address(1)}/power"
    machine.write(f"{power}/control", "auto\n")
    machine.write(f"{power}/runtime_status", "suspended\n")

    async def story(source: NvmlSource) -> None:
        (fault,) = refused(await ask(source))
        assert fault.why is Why.GPU_ASLEEP

    play(story, host_root=str(machine.root))
    assert shim.calls() == []


def test_the_source_that_the_agent_polls_can_be_asked(
    shim: ShimScenario, authority: DeviceAuthority
) -> None:
    async def story(source: NvmlSource) -> None:
        around = Surroundings(source, utc_ms=lambda: 1, kernel_log="off")
        answers = await collect(make_collectors(EvidenceConfig(nvml=True), around), NONCE)
        assert len({verified(a, authority).device.pdi for a in answers}) == GPUS

    play(story)


def test_off_by_default_and_a_nonce_has_32_bytes(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        assert make_collectors(EvidenceConfig(), source) == ()
        with pytest.raises(ValueError, match="32 bytes"):
            await ask(source, b"short")

    play(story)
    assert shim.calls() == []
