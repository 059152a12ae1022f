"""What holds of every scenario and every trace, whatever they say."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay_agent.telemetry import scenario, trace
from assay_agent.telemetry.fields import FIELDS, in_bounds
from assay_agent.telemetry.models import MODELS
from assay_agent.telemetry.reading import Depth, GpuReading, Happening, Poll, Sample
from assay_agent.telemetry.replay import ReplaySource
from assay_agent.telemetry.scenario import Hidden, PassedThrough, Scenario
from assay_agent.telemetry.simulation import gpus_of, occurrences_of, read
from assay_core.errors import FileError
from assay_core.header import Source
from assay_core.leaves import DriverState, EventKind, MigInstance, Reason

PLACES = st.integers(0, 3)
FAULTS = st.one_of(
    st.builds(
        "{{at_s: {}, kind: xid, gpu: {}, code: {}}}".format,
        st.integers(0, 900),
        PLACES,
        st.integers(1, 200),
    ),
    st.builds(
        "{{at_s: {}, kind: ecc, gpu: {}, corrected: {}}}".format,
        st.integers(0, 900),
        PLACES,
        st.integers(0, 10**9),
    ),
    st.builds("{{at_s: {}, kind: remap_failed, gpu: {}}}".format, st.integers(0, 900), PLACES),
    st.builds(
        "{{at_s: {}, kind: thermal, gpu: {}, for_s: 60}}".format, st.integers(0, 900), PLACES
    ),
    st.builds("{{at_s: {}, kind: driver_hang, for_s: 60}}".format, st.integers(0, 900)),
    st.builds("{{at_s: {}, kind: fall_off_bus, gpu: {}}}".format, st.integers(0, 900), PLACES),
    st.builds(
        "{{at_s: {}, kind: {}, gpu: {}}}".format,
        st.integers(0, 900),
        st.sampled_from(
            [
                "remap_pending, rows: 3",
                "sram_threshold",
                "unrepairable_memory",
                "inforom_corrupted",
                "recovery_action, action: 2",
                "pcie_replays, count: 77",
                "power_brake, for_s: 30",
                "hidden, for_s: 30",
                "passed_through, for_s: 30",
                "reset",
                "poison, fatal: true",
                "dram_retirement, failed: true",
                "unavailable",
                "mig, instances: 3",
                "mig, instances: 0",
            ]
        ),
        PLACES,
    ),
)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    shape = draw(st.sampled_from(["idle", "steady", "diurnal", "burst", "training", "measured"]))
    model = draw(st.sampled_from(sorted(MODELS)))
    load = f"{{shape: {shape}, level_pct: {draw(st.integers(0, 100))}"
    if draw(st.booleans()):
        load += f", period_s: {draw(st.integers(1, 1000))}, duty_pct: {draw(st.integers(0, 100))}"
    faults = draw(st.lists(FAULTS, max_size=6))
    lost: set[str] = set()
    kept = []
    for fault in faults:
        if "fall_off_bus" in fault:
            gpu = fault.rpartition("gpu: ")[2]
            if gpu in lost:
                continue
            lost.add(gpu)
        kept.append(f"\n  - {fault}")
    return scenario.parse(
        f"seed: {draw(st.integers(0, 2**62 - 1))}\n"
        f"fleets:\n  - {{profile: {model}, count: 4, load: {load}}}}}\n"
        f"faults: {''.join(kept) or '[]'}",
        "generated",
    )


@given(scenarios(), st.lists(st.integers(0, 10**9), min_size=2, max_size=6).map(sorted))
def test_every_reading_is_whole_and_can_be(of: Scenario, moments_ms: list[int]) -> None:
    for gpu in gpus_of(of):
        energy_mj = 0
        for after_ms in moments_ms:
            reading = read(of, gpu, after_ms)
            assert reading == read(of, gpu, after_ms)
            assert reading.values.keys() == FIELDS.keys() | {"tenancy"}
            for name, sample in reading.values.items():
                assert name == "tenancy" or in_bounds(FIELDS[name], sample), (name, sample)
            for depth in Depth:
                shallow = read(of, gpu, after_ms, depth).values
                assert shallow.items() <= reading.values.items(), "no depth says something else"
            energy = reading.values["energy_mj"]
            if isinstance(energy, Reason):
                break
            assert int(energy) >= energy_mj or restarted(of), "energy only grows"
            energy_mj = int(energy)


def restarted(of: Scenario) -> bool:
    """Whether something lets a driver load anew."""
    return any(isinstance(fault, Hidden | PassedThrough) for fault in of.faults)


@given(scenarios())
def test_identities_differ(of: Scenario) -> None:
    gpus = gpus_of(of)
    assert len({gpu.subject for gpu in gpus}) == len({gpu.serial for gpu in gpus}) == len(gpus)
    moments = [occurrence.after_ms for occurrence in occurrences_of(of)]
    assert moments == sorted(moments)


def test_power_integrates_to_energy() -> None:
    """The energy counter is the integral of the load, whatever its shape."""
    for shape in ("idle", "steady", "diurnal", "burst", "training", "measured"):
        of = scenario.parse(
            f"seed: 3\nfleets: [{{profile: h200, count: 1, load: {{shape: {shape}, period_s: 97}}}}]",
            "",
        )
        gpu = gpus_of(of)[0]
        summed_mj, step_ms, end_ms = 0.0, 500, 400_000
        for after_ms in range(0, end_ms, step_ms):
            power_mw = read(of, gpu, after_ms + step_ms // 2).values["power_mw"]
            summed_mj += int(power_mw) * step_ms / 1_000
        energy_mj = int(read(of, gpu, end_ms).values["energy_mj"])
        assert energy_mj == pytest.approx(summed_mj, rel=0.01), shape


REASONS = st.sampled_from(sorted(Reason))


def samples(name: str) -> st.SearchStrategy[Sample]:
    field = FIELDS[name]
    if name == "mig_instances":
        shares = st.tuples(*(st.integers(0, 100),) * 5)
        made = st.builds(MigInstance, st.integers(0, 15), st.integers(0, 2**20), shares | REASONS)
        unique = st.lists(made, max_size=3, unique_by=lambda one: one.gpu_instance_id)
        return unique.map(tuple) | REASONS
    if field.high == 0:
        texts = st.text(
            st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=40
        )
        return texts | REASONS
    numbers = st.integers(field.low, field.high).map(lambda raw: raw * field.scale)
    if field.listed:
        return st.lists(numbers, max_size=3).map(tuple) | REASONS
    return numbers | REASONS


SUBJECTS = st.binary(min_size=16, max_size=16).filter(any)
MOMENTS = st.integers(0, 2**44)
POLLS = st.builds(
    Poll,
    at_utc_ms=MOMENTS,
    at_boottime_ms=MOMENTS,
    driver=st.sampled_from(sorted(DriverState)),
    host=st.fixed_dictionaries(
        {
            "driver_version": st.just("590.48.01") | REASONS,
            "nvml_version": st.just("13.590.48.01") | REASONS,
            "gpu_count": st.integers(0, 16) | REASONS,
        },
        optional={
            "hidden_gpus": st.lists(st.just("0000:41:00.0"), max_size=1).map(tuple) | REASONS,
            "library_inode": st.integers(0, 2**64 - 1) | REASONS,
            "kernel_log": st.just("kmsg") | REASONS,
        },
    ),
    abandoned_processes=st.integers(0, 4),
    gpus=st.lists(
        st.builds(
            GpuReading,
            SUBJECTS,
            st.fixed_dictionaries({}, optional={name: samples(name) for name in FIELDS}),
        ),
        max_size=2,
    ).map(tuple),
    events=st.lists(
        st.builds(
            Happening,
            SUBJECTS | st.just(b""),
            st.sampled_from(sorted(EventKind)),
            st.integers(0, 2**32 - 1),
            MOMENTS,
        ),
        max_size=3,
    ).map(tuple),
)


RECORDING = trace.Recording(Source.NVML, "0.1.0", "0" * 16, bytes(16), 1, 1)


def kinds(poll: Poll) -> list[dict[str, type]]:
    """A reason is an integer too: equal is not enough."""
    return [{name: type(sample) for name, sample in gpu.values.items()} for gpu in poll.gpus]


@settings(max_examples=25)
@given(st.lists(POLLS, max_size=4))
def test_a_trace_gives_back_what_was_recorded(polls: list[Poll]) -> None:
    async def replayed(path: Path) -> tuple[list[Poll], Poll]:
        source = ReplaySource(path, "at_once")
        assert source.kind is Source.REPLAY
        back = [await source.poll(0) for _ in polls]
        after = await source.poll(0)
        await source.close()
        return back, after

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.jsonl")
        with trace.TraceWriter(path, RECORDING) as writer:
            for poll in polls:
                writer.write(poll)
        back, after = asyncio.run(replayed(path))
    assert back == polls
    assert [kinds(poll) for poll in back] == [kinds(poll) for poll in polls]
    assert (after.driver, after.gpus) == (DriverState.ABSENT, ())


@given(POLLS, st.data())
def test_damage_is_refused_or_says_the_same_kind_of_thing(poll: Poll, data: st.DataObject) -> None:
    """A line with one byte changed is refused by name, or is a poll whose every field can be."""
    line = bytearray(trace.encode(poll))
    line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    try:
        back = trace.decode(bytes(line), "trace.jsonl:2")
    except FileError as error:
        assert str(error).startswith("trace.jsonl:2: ")
        return
    assert isinstance(back, Poll)
    for gpu in back.gpus:
        for name, sample in gpu.values.items():
            assert name == "tenancy" or in_bounds(FIELDS[name], sample)
