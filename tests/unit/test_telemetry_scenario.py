"""Scenario files: what is refused, by line and field; and what a scenario comes to."""

import asyncio

import pytest

from assay_agent.telemetry import scenario
from assay_agent.telemetry.models import MODELS
from assay_agent.telemetry.scenario import Scenario
from assay_agent.telemetry.simulated import SimulatedSource
from assay_agent.telemetry.simulation import gpus_of, hangs, occurrences_of, read
from assay_core.errors import FileError
from assay_core.leaves import HOST, DriverState, EventKind, Reason

STORY = """
seed: 7
fleets:
  - profile: h100
    count: 2
    load: {shape: steady, level_pct: 50}
  - profile: l40s
    count: 1
faults:
  - {at_s: 10, kind: fall_off_bus, gpu: 0}
  - {at_s: 20, kind: return, gpu: 0}
  - {at_s: 30, kind: xid, gpu: 1, code: 31}
  - {at_s: 40, kind: ecc, gpu: 1, corrected: 5, uncorrected: 1}
  - {at_s: 50, kind: remap_failed, gpu: 1}
  - {at_s: 60, kind: thermal, gpu: 1, for_s: 5, celsius: 99}
  - {at_s: 70, kind: driver_hang, for_s: 5}
"""


def story() -> Scenario:
    return scenario.parse(STORY, "story.yaml")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            "fleets: [{profile: h100}]",
            "story.yaml:1: the file: Object missing required field `seed`",
        ),
        ("seed: 1\nfleets: []", "story.yaml:2: fleets"),
        ("seed: 1\nfleets:\n  - profile: h300", "story.yaml:3: fleets.0.profile"),
        ("seed: 1\nfleets:\n  - {profile: h100, cout: 3}", "cout"),
        ("seed: 1\nfleets:\n  - {profile: h100, count: 0}", "story.yaml:3: fleets.0.count"),
        ("seed: 1\nfleets:\n  - {profile: h100, load: {shape: loud}}", "fleets.0.load.shape"),
        ("seed: 1\nseed: 2\nfleets: [{profile: h100}]", "story.yaml:2: seed: given twice"),
        (
            "seed: 1\nfleets:\n  - {profile: h100, count: 40}\n  - {profile: b200, count: 40}",
            "80 GPUs",
        ),
        (STORY + "  - {at_s: 1, kind: melt, gpu: 0}", "story.yaml:17: faults.7.kind"),
        (STORY + "  - {at_s: 1, kind: xid, gpu: 0}", "code"),
        (STORY + "  - {at_s: 1, kind: xid, gpu: 3, code: 1}", "there is no GPU 3"),
        (STORY + "  - {at_s: 1, kind: return, gpu: 1}", "GPU 1 is not lost"),
        (STORY + "  - {at_s: 15, kind: fall_off_bus, gpu: 0}", "GPU 0 is lost already"),
        (STORY + "  - {at_s: -1, kind: remap_failed, gpu: 0}", "faults.7.at_s"),
    ],
)
def test_refused(wrong: str, said: str) -> None:
    with pytest.raises(FileError) as caught:
        scenario.parse(wrong, "story.yaml")
    assert said in str(caught.value)


def test_identities_are_the_seeds_alone() -> None:
    """A loan may name GPUs before they are seen: these do not change."""
    gpus = gpus_of(story())
    assert [gpu.serial for gpu in gpus] == ["SIM1830393382", "SIM4656011325", "SIM6929100810"]
    assert gpus[0].identity["board_part_number"] == "692-2G520-0200-000"
    other = gpus_of(scenario.parse(STORY.replace("seed: 7", "seed: 8"), ""))
    assert not {gpu.serial for gpu in gpus} & {gpu.serial for gpu in other}
    assert not {gpu.subject for gpu in gpus} & {gpu.subject for gpu in other}


def test_what_happens_when() -> None:
    first, second, _ = (gpu.subject for gpu in gpus_of(story()))
    assert [(o.after_ms, o.subject, o.kind, o.code) for o in occurrences_of(story())] == [
        (10_000, first, EventKind.XID, 79),
        (10_000, first, EventKind.GPU_LOST, 0),
        (20_000, first, EventKind.GPU_RETURNED, 0),
        (30_000, second, EventKind.XID, 31),
        (50_000, second, EventKind.XID, 64),
        (70_000, HOST, EventKind.DRIVER_UNRESPONSIVE, 0),
        (75_000, HOST, EventKind.DRIVER_RECOVERED, 0),
    ]


def value(place: int, name: str, after_ms: int) -> object:
    return read(story(), gpus_of(story())[place], after_ms).values[name]


def test_faults_show_in_the_fields() -> None:
    assert isinstance(value(0, "serial", 9_999), str)
    assert value(0, "serial", 10_000) is Reason.GPU_LOST
    assert value(0, "power_mw", 19_999) is Reason.GPU_LOST
    assert isinstance(value(0, "serial", 20_000), str)
    assert value(0, "energy_mj", 20_000) == 0, "what counts from driver load starts anew"
    assert [value(1, "ecc_uncorrected_aggregate", t) for t in (39_999, 40_000)] == [0, 1]
    assert value(1, "ecc_corrected_volatile", 40_000) == 5
    assert [value(1, "remap_failed", t) for t in (49_999, 50_000)] == [0, 1]
    assert value(1, "temperature_mc", 60_000) == 99_000
    assert value(1, "clocks_event_reasons", 60_000) == 0x60
    assert value(1, "temperature_mc", 65_000) == 50_000, "half way from idle to loaded"
    assert [hangs(story(), t) for t in (69_999, 70_000, 75_000)] == [False, True, False]
    assert value(2, "memory_temperature_mc", 0) is Reason.NOT_SUPPORTED
    assert value(0, "memory_used_bytes", 0) == 9_909 * 1024 * 1024


@pytest.mark.parametrize("name", MODELS)
def test_a_model_makes_sense(name: str) -> None:
    model = MODELS[name]  # type: ignore[index]  # a key of it
    assert model.idle.power_mw < model.loaded.power_mw <= model.power_limit_mw
    assert model.idle.temperature_c < model.loaded.temperature_c
    assert model.loaded.memory_used_mib <= model.memory_total_mib


def test_the_source_returns_at_once_when_something_happens() -> None:
    soon = scenario.parse(
        "seed: 1\nfleets: [{profile: h100, count: 2}]\n"
        "faults: [{at_s: 0, kind: xid, gpu: 0, code: 79}, {at_s: 1, kind: fall_off_bus, gpu: 1}]",
        "",
    )

    async def whole() -> None:
        source = SimulatedSource(soon)
        poll = await asyncio.wait_for(source.poll(600_000), 30)
        assert [(e.kind, e.code) for e in poll.events] == [(EventKind.XID, 79)]
        assert poll.host["gpu_count"] == 2
        poll = await asyncio.wait_for(source.poll(600_000), 30)
        assert [(e.kind, e.code) for e in poll.events] == [
            (EventKind.XID, 79),
            (EventKind.GPU_LOST, 0),
        ]
        assert set(poll.gpus[1].values.values()) == {Reason.GPU_LOST}
        assert poll.host["gpu_count"] == 1
        assert (await source.poll(0)).events == (), "told once"
        waiting = asyncio.create_task(source.poll(600_000))
        await asyncio.sleep(0)
        await source.pause()
        assert (await asyncio.wait_for(waiting, 30)).driver is DriverState.PAUSED
        assert (await source.poll(0)).gpus == ()
        await source.resume()
        assert (await source.poll(0)).driver is DriverState.RUNNING
        await source.close()

    asyncio.run(whole())


def test_a_hung_driver_says_nothing() -> None:
    hung = scenario.parse(
        "seed: 1\nfleets: [{profile: h100}]\nfaults: [{at_s: 0, kind: driver_hang, for_s: 1}]", ""
    )

    async def whole() -> None:
        source = SimulatedSource(hung)
        poll = await source.poll(0)
        assert (poll.driver, poll.gpus) == (DriverState.UNRESPONSIVE, ())
        assert [e.kind for e in poll.events] == [EventKind.DRIVER_UNRESPONSIVE]
        poll = await asyncio.wait_for(source.poll(600_000), 30)
        assert (poll.driver, len(poll.gpus)) == (DriverState.RUNNING, 8)
        assert [e.kind for e in poll.events] == [EventKind.DRIVER_RECOVERED]

    asyncio.run(whole())
