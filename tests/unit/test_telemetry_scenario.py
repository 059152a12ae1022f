"""Scenario files: what is refused, by line and field; and what a scenario comes to."""

import asyncio

import pytest

from assay_agent.telemetry import scenario
from assay_agent.telemetry.models import MODELS
from assay_agent.telemetry.reading import Happening
from assay_agent.telemetry.scenario import Scenario
from assay_agent.telemetry.simulated import SimulatedSource
from assay_agent.telemetry.simulation import gpus_of, hangs, occurrences_of, read
from assay_agent.window import Aggregator
from assay_core.errors import FileError
from assay_core.header import CloseReason
from assay_core.leaves import (
    HOST,
    DriverState,
    EventKind,
    Group,
    IncidentKind,
    Reason,
    Tenancy,
)
from tests.fakes.readings import BOOT_MS, START_MS, poll

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
        (STORY + "  - {at_s: 1, kind: nvlink_down, gpu: 2}", "l40s has no NVLink 0"),
        (STORY + "  - {at_s: 1, kind: hidden, gpu: 0}", "for_s"),
        (STORY + "  - {at_s: 1, kind: mig, gpu: 0, instances: 8}", "faults.7.instances"),
        ("seed: 1\nfleets: [{profile: h100, mig: 9}]", "fleets.0.mig"),
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


TROUBLES = """
seed: 7
fleets: [{profile: h100, count: 8, load: {shape: steady}}, {profile: b200, count: 1}]
faults:
  - {at_s: 1, kind: remap_pending, gpu: 0, rows: 2}
  - {at_s: 1, kind: sram_threshold, gpu: 1}
  - {at_s: 1, kind: recovery_action, gpu: 0, action: 2}
  - {at_s: 1, kind: nvlink_down, gpu: 1, link: 17, for_s: 5}
  - {at_s: 1, kind: pcie_replays, gpu: 1, count: 40}
  - {at_s: 1, kind: power_brake, gpu: 2, for_s: 2}
  - {at_s: 2, kind: thermal, gpu: 2, for_s: 3, celsius: 99}
  - {at_s: 1, kind: hidden, gpu: 3, for_s: 9}
  - {at_s: 1, kind: passed_through, gpu: 4, for_s: 9}
  - {at_s: 1, kind: poison, gpu: 5, fatal: true}
  - {at_s: 1, kind: dram_retirement, gpu: 5, failed: true}
  - {at_s: 1, kind: unavailable, gpu: 5}
  - {at_s: 1, kind: unrepairable_memory, gpu: 5}
  - {at_s: 1, kind: inforom_corrupted, gpu: 5}
  - {at_s: 1, kind: mig, gpu: 6, instances: 2}
  - {at_s: 10, kind: reset, gpu: 0}
"""


def trouble(place: int, name: str, after_s: int) -> object:
    of = scenario.parse(TROUBLES, "")
    return read(of, gpus_of(of)[place], after_s * 1_000).values[name]


def test_each_trouble_shows_and_ends_as_it_should() -> None:
    assert [trouble(0, "remap_pending", t) for t in (0, 1, 9, 10)] == [0, 1, 1, 0]
    assert [trouble(0, "remapped_rows_uncorrected", t) for t in (0, 1, 10)] == [0, 2, 2]
    assert [trouble(0, "remap_banks_max", t) for t in (0, 1)] == [2_560, 2_558]
    assert [trouble(0, "recovery_action", t) for t in (0, 1, 10)] == [0, 2, 0]
    assert [trouble(1, "ecc_sram_threshold_exceeded", t) for t in (0, 1)] == [0, 1]
    states = [trouble(1, "nvlink_states", t) for t in (0, 1, 6)]
    assert [sum(links) for links in states if isinstance(links, tuple)] == [18, 17, 18]
    assert [trouble(1, "pcie_replays", t) for t in (0, 1)] == [0, 40]
    assert [trouble(2, "clocks_event_reasons", t) for t in (0, 1, 2, 4, 5)] == [
        0,
        0x80,
        0xE0,
        0x60,
        0,
    ]
    assert trouble(2, "slowdown_power_brake_ns", 9) == 2_000_000_000
    assert trouble(2, "slowdown_hardware_thermal_ns", 3) == 1_000_000_000
    assert trouble(2, "temperature_margin_min_mc", 3) == 87_000 - 99_000
    assert trouble(3, "power_mw", 2) is Reason.GPU_LOST
    assert trouble(3, "tenancy", 2) == Tenancy.HOST
    assert trouble(4, "power_mw", 2) is Reason.PASSED_THROUGH
    assert [trouble(4, "tenancy", t) for t in (0, 2, 10)] == [1, 2, 1]
    assert trouble(5, "unrepairable_memory", 1) == 1
    assert trouble(5, "inforom_valid", 1) == 0
    assert trouble(6, "mig_instances", 0) == ()
    cut = trouble(6, "mig_instances", 1)
    assert isinstance(cut, tuple)
    assert [(one.gpu_instance_id, one.memory_mib) for one in cut] == [(0, 40_779), (1, 40_779)]
    assert trouble(6, "gpu_utilisation_bps", 1) is Reason.HIDDEN_BY_MIG
    assert trouble(8, "nvlink5_discards", 0) == (0,) * 18
    assert trouble(0, "nvlink5_discards", 0) is Reason.NOT_SUPPORTED


def test_each_trouble_that_the_driver_tells_is_an_event() -> None:
    of = scenario.parse(TROUBLES, "")
    places = {gpu.subject: gpu.place for gpu in gpus_of(of)}
    assert [(places[o.subject], o.kind.name, o.code) for o in occurrences_of(of)] == [
        (0, "XID", 63),
        (0, "RECOVERY_ACTION", 2),
        (1, "XID", 74),
        (3, "GPU_HIDDEN", 0),
        (3, "GPU_LOST", 0),
        (5, "POISON", 1),
        (5, "DRAM_RETIREMENT", 1),
        (5, "UNAVAILABLE", 0),
        (6, "MIG_CHANGED", 2),
        (3, "GPU_RETURNED", 0),
        (4, "GPU_RETURNED", 0),
        (0, "GPU_RESET", 0),
    ]


def test_troubles_become_the_incidents_they_stand_for() -> None:
    """The whole way: scenario, window, rules."""
    of = scenario.parse(TROUBLES, "")
    gpus = gpus_of(of)
    found = Aggregator((), begin_utc_ms=0, begin_boottime_ms=0)
    open_now: dict[int, set[IncidentKind]] = {}
    told = 0
    for after_ms in range(0, 8_000, 1_000):
        happened = []
        for one in occurrences_of(of)[told:]:
            if one.after_ms > after_ms:
                break
            happened.append(Happening(one.subject, one.kind, one.code, one.after_ms))
            told += 1
        found.add(
            poll(
                *(read(of, gpu, after_ms) for gpu in gpus),
                after_ms=after_ms,
                events=tuple(happened),
            )
        )
        draft = found.draft(
            at_utc_ms=START_MS + after_ms,
            at_boottime_ms=BOOT_MS + after_ms,
            close_reason=CloseReason.PERIOD,
        )
        found.restart(draft)
        for gpu in gpus:
            kinds = {
                one.kind
                for content in draft.contents
                if content.subject == gpu.subject and content.group is Group.HEALTH
                for one in content.incidents()
            }
            open_now.setdefault(gpu.place, set()).update(kinds)
    assert open_now[0] >= {IncidentKind.REMAP_PENDING, IncidentKind.RECOVERY_ACTION}
    assert open_now[1] >= {IncidentKind.SRAM_THRESHOLD, IncidentKind.NVLINK_DOWN}
    assert IncidentKind.GPU_LOST in open_now[3]
    assert open_now[4] == set(), "a virtual machine has it: nothing is wrong"
    assert open_now[5] >= {
        IncidentKind.UNREPAIRABLE_MEMORY,
        IncidentKind.INFOROM_CORRUPTED,
        IncidentKind.POISON,
        IncidentKind.DRAM_RETIREMENT,
    }
    assert open_now[7] == set(), "what is well has no incident"
    assert open_now[8] == set()


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
        lost = dict(poll.gpus[1].values)
        assert lost.pop("tenancy") == Tenancy.GONE
        assert set(lost.values()) == {Reason.GPU_LOST}
        assert poll.host["gpu_count"] == 1
        assert poll.host["pci_gpu_count"] == 1
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
