"""What the configuration switches on, and what `assay-agent check` says of evidence."""

import re
from pathlib import Path

import pytest

from assay_agent import config
from assay_agent.config import AgentConfig, EvidenceConfig, SourceConfig
from assay_agent.evidence.collector import Answer, Collected, Unobtainable
from assay_agent.evidence.collectors import absent, collected, make_collectors
from assay_agent.evidence.nvml import answers
from assay_agent.evidence.why import Why
from assay_agent.telemetry.attestor import Attestation
from assay_agent.telemetry.diagnosis import State
from assay_agent.telemetry.diagnosis_evidence import evidence
from assay_agent.telemetry.reading import GpuReading, Poll, Sample
from assay_agent.telemetry.sources import make_source
from assay_agent.telemetry.wire import Attested
from assay_core.errors import FileError
from assay_core.evidence.origin import Origin
from assay_core.leaves import DriverState, Reason
from tests.fakes.attesting import pem
from tests.fakes.nvidia import Maker

ROOT = Path(__file__).resolve().parent.parent.parent
NONCE = bytes(32)
ON = EvidenceConfig(nvml=True)
MAKER = Maker()
FIRST, SECOND = (MAKER.device(pdi) for pdi in (1, 2))
GIVEN = Collected(Origin.IN_BAND_NVML, FIRST.answer(NONCE).report, pem(FIRST.chain))
OTHER = Collected(Origin.IN_BAND_NVML, SECOND.answer(NONCE).report, pem(SECOND.chain))
AMPERE, HOPPER, BLACKWELL = 8, 9, 10


def poll(*architectures: Sample, **host: Sample) -> Poll:
    gpus = tuple(
        GpuReading(bytes([place]) * 16, {"architecture": one})
        for place, one in enumerate(architectures, 1)
    )
    return Poll(0, 0, DriverState.RUNNING, host, 0, gpus, ())


def written(tmp_path: Path, text: str) -> AgentConfig:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    return config.load(path)


def test_both_are_off_unless_switched_on(tmp_path: Path) -> None:
    assert config.load(None).evidence == EvidenceConfig(nvml=False, corelib=None)
    found = written(tmp_path, "evidence: {nvml: true, corelib: /run/assay-corelib.sock}")
    assert found.evidence == EvidenceConfig(nvml=True, corelib="/run/assay-corelib.sock")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("evidence: {nvml: maybe}", "evidence.nvml"),
        ("evidence: {corelib: run/assay-corelib.sock}", "no absolute path"),
        ("evidence: {redfish: true}", "redfish"),
        ("source: {kind: simulated, file: x}\nevidence: {nvml: true}", "no hardware"),
        ("source: {kind: replay, file: x}\nevidence: {corelib: /s}", "no hardware"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(FileError, match=said):
        written(tmp_path, text)


def test_a_source_without_a_driver_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text("seed: 1\nfleets: [{profile: h100, count: 1}]\n")
    source = make_source(SourceConfig(kind="simulated", file=str(path)))
    with pytest.raises(FileError, match="reads a driver"):
        make_collectors(ON, source)


def test_reasons_are_counted_by_name() -> None:
    faults = [
        Unobtainable(Origin.IN_BAND_NVML, why) for why in (Why.GPU_LOST, Why.CC_OFF, Why.CC_OFF)
    ]
    given: list[Answer] = [GIVEN, *faults]
    assert absent(given) == "cc_off: 2, gpu_lost: 1"
    assert collected(given) == (GIVEN,)
    assert absent([GIVEN]) == ""


def test_a_device_that_two_ways_lead_to_is_told_once_and_by_the_first() -> None:
    again = Collected(Origin.IN_BAND_CORELIB, FIRST.answer(NONCE).report, pem(FIRST.chain))
    assert collected([GIVEN, OTHER, again]) == (GIVEN, OTHER)
    assert collected([again, GIVEN]) == (again,)
    FIRST.update(bytes(48))  # other firmware: another leaf of the same device
    updated = Collected(Origin.IN_BAND_CORELIB, FIRST.answer(NONCE).report, pem(FIRST.chain))
    assert updated.chain_pem != GIVEN.chain_pem
    assert collected([GIVEN, updated]) == (GIVEN,)
    leaf = Collected(Origin.IN_BAND_NVML, b"", pem(SECOND.chain[:1]))
    assert collected([leaf, OTHER, leaf]) == (leaf, OTHER)


def test_every_reason_has_words_and_is_on_the_page() -> None:
    page = (ROOT / "docs" / "evidence-collectors.md").read_text()
    table = page.partition("## When a GPU gives none")[2].partition("\n## ")[0]
    for why in Why:
        assert why.what
        assert why.fix
    named = {
        name
        for row in table.splitlines()
        for name in re.findall(r"`(\w+)`", row[: row.find("|", 1)])
    }
    assert named == {why.value for why in Why}


@pytest.mark.parametrize(
    ("modes", "code", "why"),
    [
        ({"cc_feature": 0, "cc_multi_gpu_mode": 0}, 3, Why.CC_OFF),
        ({"cc_feature": 0, "cc_multi_gpu_mode": 0}, 999, Why.CC_OFF),
        ({"cc_feature": 0, "cc_multi_gpu_mode": Reason.SYMBOL_MISSING}, 3, Why.CC_OFF),
        ({"cc_feature": 0, "cc_multi_gpu_mode": Reason.NOT_SUPPORTED}, 3, Why.CC_OFF),
        ({"cc_feature": 0, "cc_multi_gpu_mode": 0}, 15, Why.GPU_LOST),
        ({"cc_feature": 0, "cc_multi_gpu_mode": 0}, 4, Why.NO_PERMISSION),
        ({"cc_feature": 0, "cc_multi_gpu_mode": Reason.DRIVER_ERROR}, 3, Why.NOT_SUPPORTED),
        ({"cc_feature": 0, "cc_multi_gpu_mode": 1}, 3, Why.NOT_SUPPORTED),
        ({"cc_feature": 1, "cc_multi_gpu_mode": 0}, 3, Why.NOT_SUPPORTED),
        ({"cc_feature": 1, "cc_multi_gpu_mode": 0}, 999, Why.DRIVER_ERROR),
        ({"cc_feature": Reason.DRIVER_ERROR, "cc_multi_gpu_mode": 0}, 3, Why.NOT_SUPPORTED),
        ({}, 3, Why.NOT_SUPPORTED),
    ],
)
def test_a_mode_that_is_known_to_be_off_is_the_reason(
    modes: dict[str, Sample], code: int, why: Why
) -> None:
    told = Attestation(modes=modes, gpus=(Attested(uuid="11" * 16, call="report", code=code),))
    (answer,) = answers(told, NONCE)
    assert isinstance(answer, Unobtainable)
    assert answer.why is why
    assert answer.gpu == "GPU-11111111-1111-1111-1111-111111111111"


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (poll(AMPERE, cc_feature=0, cc_multi_gpu_mode=0), "evidence-impossible"),
        (poll(HOPPER, AMPERE, cc_feature=0, cc_multi_gpu_mode=0), "evidence-impossible"),
        (poll(HOPPER, cc_feature=0, cc_multi_gpu_mode=0), "evidence-needs-mode"),
        *(
            (poll(HOPPER, cc_feature=reason, cc_multi_gpu_mode=reason), "evidence-needs-mode")
            for reason in Reason
        ),
        (poll(HOPPER, cc_feature=1, cc_multi_gpu_mode=0), "evidence-off"),
        (poll(HOPPER, cc_feature=0, cc_multi_gpu_mode=1), "evidence-off"),
        (poll(BLACKWELL, cc_feature=1, cc_multi_gpu_mode=0), "evidence-off"),
        (poll(BLACKWELL, cc_feature=0, cc_multi_gpu_mode=0), "evidence-by-corelib"),
    ],
)
def test_what_a_host_could_give(seen: Poll, code: str) -> None:
    finding = evidence(seen, EvidenceConfig(), ())
    assert finding is not None
    assert (finding.state, finding.code) == (State.NOTE, code)


def test_nothing_is_said_of_gpus_that_cannot_be_asked() -> None:
    assert evidence(poll(), EvidenceConfig(), ()) is None
    assert evidence(poll(Reason.GPU_LOST), EvidenceConfig(), ()) is None


def test_what_a_host_gives() -> None:
    lost = Unobtainable(Origin.IN_BAND_NVML, Why.GPU_LOST, "GPU-1", "NVML code 15")
    seen = poll(HOPPER)
    for given, state, code, said in (
        ((GIVEN, OTHER), State.OK, "evidence-given", "2 answered"),
        ((GIVEN, lost), State.WARNING, "evidence-partial", "1 answered a nonce; of the others: the GPU fell"),
        ((lost,), State.WARNING, "evidence-missing", "the GPU fell off its bus (1)"),
    ):  # fmt: skip
        finding = evidence(seen, ON, given)
        assert finding is not None
        assert (finding.state, finding.code) == (state, code)
        assert said in finding.what
        assert bool(finding.fix) is (state is State.WARNING)
