"""Whatever a driver's process or corelib's program says, a collector names what is wrong with it."""

import functools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from assay_agent.evidence import corelib_collector, nvml
from assay_agent.evidence.collector import Answer, Collected, Unobtainable
from assay_agent.evidence.corelib_wire import Gpu, Told
from assay_agent.evidence.why import Why
from assay_agent.telemetry.attestor import Attestation
from assay_agent.telemetry.wire import Attested
from assay_core.evidence import chain, nvidia
from assay_core.leaves import Reason
from tests.fakes.attesting import pem, spdm_chain
from tests.fakes.nvidia import NOW_MS, Maker

NONCE = bytes(range(32))
CALLS = ("", "identity", "certificate", "report")


@functools.cache
def good() -> tuple[Maker, bytes, bytes, bytes]:
    maker = Maker()
    device = maker.device(3)
    return maker, device.answer(NONCE).report, pem(device.chain), spdm_chain(device.chain)


def bytes_near(what: bytes) -> st.SearchStrategy[bytes]:
    """These bytes with a piece of them replaced, or any."""
    changed = st.tuples(st.integers(0, len(what)), st.integers(0, 9), st.binary(max_size=9)).map(
        lambda cut: what[: cut[0]] + cut[2] + what[cut[0] + cut[1] :]
    )
    return st.just(what) | changed | st.binary(max_size=100)


def check(answers: tuple[Answer, ...], count: int | None = None) -> None:
    assert answers
    assert count is None or len(answers) == count
    for answer in answers:
        assert isinstance(answer, Collected | Unobtainable)
        if isinstance(answer, Unobtainable):
            assert str(answer).isprintable()
            assert len(str(answer)) < 1_000
        else:
            chain.read(answer.chain_pem)


@given(st.binary(max_size=300))
def test_any_bytes_of_corelibs_program(data: bytes) -> None:
    check(corelib_collector.answers(data, NONCE))


@given(st.data())
def test_any_gpus_of_corelibs_program(data: st.DataObject) -> None:
    _, report, _, certificates = good()
    gpus = [
        Gpu(
            about=data.draw(st.text(max_size=300)),
            report=data.draw(bytes_near(report)),
            certificates=data.draw(bytes_near(certificates)),
            fault=data.draw(st.none() | st.sampled_from(Why)),
            detail=data.draw(st.text(max_size=300)),
        )
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    told = msgspec.json.encode(Told(gpus=gpus))
    check(corelib_collector.answers(told, NONCE), len(gpus))


@given(st.data())
def test_any_answers_of_a_drivers_process(data: st.DataObject) -> None:
    _, report, certificates, _ = good()
    gpus = tuple(
        Attested(
            uuid=data.draw(st.sampled_from(("", "11" * 16, "1", "zz" * 16))),
            call=data.draw(st.sampled_from(CALLS)),  # type: ignore[arg-type]  # one of them
            code=data.draw(st.integers(-5, 1_000)),
            said=data.draw(st.sampled_from((0, 90_000))),
            report=data.draw(bytes_near(report)),
            chain=data.draw(bytes_near(certificates)),
        )
        for _ in range(data.draw(st.integers(0, 3)))
    )
    told = Attestation(
        why=data.draw(st.none() | st.sampled_from(Reason)),
        code=data.draw(st.integers(-5, 1_000)),
        modes={"cc_feature": data.draw(st.integers(0, 3) | st.sampled_from(Reason))},
        gpus=gpus,
        unanswered=data.draw(st.sampled_from(((), ("", "22" * 16), ("q",)))),
    )
    check(nvml.answers(told, NONCE))


def test_what_was_not_changed_is_evidence() -> None:
    """So that the properties above are not of refusals alone."""
    maker, report, certificates, spdm = good()
    told = msgspec.json.encode(Told(gpus=[Gpu(report=report, certificates=spdm)]))
    given_ = Attestation(gpus=(Attested(report=report, chain=certificates),))
    for answers in (corelib_collector.answers(told, NONCE), nvml.answers(given_, NONCE)):
        (answer,) = answers
        assert isinstance(answer, Collected)
        assert answer.chain_pem == certificates
        evidence = nvidia.Evidence(answer.report, chain.read(answer.chain_pem))
        nvidia.verify(evidence, nonce=NONCE, now_ms=NOW_MS, roots=maker.roots)
