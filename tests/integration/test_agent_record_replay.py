"""A recording of a driver with faults, and its windows made again from it, byte for byte."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from assay_agent.cli import main
from assay_agent.host import Clock
from assay_agent.recording import Recorder, replay
from assay_agent.telemetry import trace
from assay_agent.telemetry.nvml import NvmlSource
from assay_agent.telemetry.reading import Poll
from assay_agent.telemetry.replay import ReplaySource
from assay_core.errors import FileError
from assay_core.header import CloseReason, Source
from assay_core.leaves import ON_CHANGE, EventKind, Group, IncidentKind, Reason
from tests.fakes.shim import ShimScenario

COMMAND = "import sys; from assay_agent.cli import main; sys.exit(main())"


@pytest.fixture
def shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShimScenario:
    scenario = ShimScenario(tmp_path, gpus=3).set_every(load="loaded")
    for key, value in scenario.env({}).items():
        monkeypatch.setenv(key, value)
    return scenario


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of everything that may go wrong in a few windows."""
    folder = tmp_path_factory.mktemp("recorded")
    path, shim = folder / "trace.jsonl", ShimScenario(folder, gpus=3).set_every(load="loaded")

    async def whole() -> None:
        source = NvmlSource(2_000)
        recorder = Recorder(
            path, source, poll_ms=150, window_ms=1_000, boot_id=bytes(16), clock=Clock()
        )

        async def windows(count: int) -> None:
            while recorder.windows < count:
                await recorder.step()

        try:
            await windows(1)
            shim.gpu(0).xid(79)
            shim.gpu(0).lose()
            await windows(2)
            shim.gpu(1).set(remapped_rows_pending=1)
            shim.gpu(0).restore()
            await windows(4)
            shim.gpu(2).unplug()
            await windows(5)
            shim.reload_driver()
            await windows(7)
            shim.unload_driver()
            await recorder.step()
            await recorder.step()
        finally:
            recorder.close()
            await source.close()

    with pytest.MonkeyPatch.context() as environment:
        for key, value in shim.env({}).items():
            environment.setenv(key, value)
        asyncio.run(whole())
    return path


def test_every_leaf_of_every_window_comes_out_byte_for_byte(recorded: Path) -> None:
    windows = list(replay(recorded))
    assert len(windows) >= 8
    assert [window.differing for window in windows] == [()] * len(windows)
    reasons = [window.recorded.close_reason for window in windows]
    assert set(reasons) == {CloseReason.PERIOD, CloseReason.EVENT, CloseReason.SHUTDOWN}
    groups = {group for window in windows for _, group in window.recorded.leaves}
    assert groups == set(Group)
    events = {
        event.kind
        for window in windows
        for content in window.draft.contents
        if content.group in (Group.HEALTH, Group.HOST)
        for event in content.events()
    }
    assert events >= {EventKind.XID, EventKind.GPU_LOST, EventKind.GPU_RETURNED}
    assert events >= {EventKind.DRIVER_RELOADED}
    incidents = {
        one.kind
        for window in windows
        for content in window.draft.contents
        if content.group is Group.HEALTH
        for one in content.incidents()
    }
    assert incidents >= {IncidentKind.XID, IncidentKind.GPU_LOST, IncidentKind.REMAP_PENDING}
    slow = [key for window in windows[1:] for key in window.recorded.leaves if key[1] in ON_CHANGE]
    assert len(slow) < 3 * len(windows), "they travel on change, and not each time"


def test_another_reading_anywhere_is_another_leaf(recorded: Path) -> None:
    polls = [line for line in trace.read(recorded) if isinstance(line, Poll)]
    changed = next(
        index for index, poll in enumerate(polls) if "power_mw" in dict(poll.gpus[0].values)
    )
    taken = iter(range(len(polls)))

    def change(poll: Poll) -> Poll:
        first, *others = poll.gpus or (None,)
        if next(taken) != changed or first is None:
            return poll
        another = replace(first, values={**first.values, "power_mw": 1})
        return replace(poll, gpus=(another, *others))

    windows = list(replay(recorded, change))
    wrong = [(number, key) for number, one in enumerate(windows) for key in one.differing]
    subject = polls[changed].gpus[0].subject
    assert wrong == [(0, (subject, Group.USE))]


def test_a_trace_is_a_source_too(recorded: Path) -> None:
    async def whole() -> list[Poll]:
        source = ReplaySource(recorded, "at_once")
        assert source.kind is Source.REPLAY
        polls = [line for line in trace.read(recorded) if isinstance(line, Poll)]
        return [await source.poll(0) for _ in polls]

    back = asyncio.run(whole())
    assert back == [line for line in trace.read(recorded) if isinstance(line, Poll)]


def test_the_commands_record_until_interrupted_and_replay(
    tmp_path: Path, shim: ShimScenario, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "agent.yaml", tmp_path / "out.jsonl"
    config.write_text("poll_ms: 100\nwindow_ms: 1000\nsource: {kernel_log: 'off'}\n")
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "record", "--out", str(out), "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    lines = 0
    while lines < 20 and process.poll() is None:
        lines = len(out.read_bytes().splitlines()) if out.exists() else 0
    process.send_signal(signal.SIGINT)
    said, wrong = process.communicate(timeout=60)
    assert (process.returncode, wrong) == (0, "")
    assert "polls" in said
    assert main(["replay", str(out)]) == 0
    assert "every one byte for byte" in capsys.readouterr().out
    assert main(["replay", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["source"] == "nvml"
    assert document["windows"][-1]["close_reason"] == "shutdown"
    assert all(leaf["same"] for window in document["windows"] for leaf in window["leaves"])

    text = out.read_text()
    broken = tmp_path / "broken.jsonl"
    broken.write_text(text.replace('"power_mw":6', '"power_mw":5', 1))
    assert broken.read_text() != text
    assert main(["replay", str(broken)]) == 1
    said = capsys.readouterr().out
    assert "1 DIFFER" in said
    assert ", use" in said  # which leaf it is


def test_a_bar_is_shown_where_somebody_watches(tmp_path: Path, shim: ShimScenario) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("poll_ms: 100\nsource: {kernel_log: 'off'}\n")
    mine, theirs = os.openpty()
    words = [sys.executable, "-c", COMMAND, "record", "--out", str(tmp_path / "t.jsonl")]
    ended = subprocess.run(
        [*words, "--for", "1s", "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=60,
        check=False,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    shown = os.read(mine, 65_536).decode(errors="replace")
    os.close(mine)
    assert ended.returncode == 0
    assert "polls" in shown


def test_what_cannot_be_replayed_says_why(
    tmp_path: Path, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = recorded.read_text().splitlines(keepends=True)
    path = tmp_path / "wrong.jsonl"
    for text, said in (
        ("{}\n", "wrong.jsonl:1: not a trace"),
        (lines[0], "no window was closed in it"),
        (lines[0] + next(line for line in lines if '"window"' in line), "without a poll"),
        (lines[0].replace('"health_rules":"', '"health_rules":"x') + lines[1], "health rules"),
        (lines[0] + lines[1][:50] + "\n", "wrong.jsonl:2"),
        (lines[0].replace('"assay_trace":1', '"assay_trace":9'), "a trace of version 9"),
    ):
        path.write_text(text)
        assert main(["replay", str(path)]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(FileError):
        list(replay(tmp_path / "none.jsonl"))


def test_a_leaf_that_only_one_side_has_differs(recorded: Path) -> None:
    first = next(iter(replay(recorded)))
    empty = replace(first.recorded, leaves={})
    assert set(first.recorded.leaves) > set(empty.leaves)
    text = recorded.read_text().splitlines(keepends=True)
    window = next(index for index, line in enumerate(text) if '"window"' in line)
    document = json.loads(text[window])
    gone = document["leaves"].pop()
    text[window] = json.dumps(document) + "\n"
    path = recorded.with_name("less.jsonl")
    path.write_text("".join(text))
    ((_, group),) = next(iter(replay(path))).differing
    assert group.value == gone["body"]


def test_reasons_are_recorded_too(recorded: Path) -> None:
    polls = [line for line in trace.read(recorded) if isinstance(line, Poll)]
    reasons = {
        sample
        for poll in polls
        for gpu in poll.gpus
        for sample in gpu.values.values()
        if isinstance(sample, Reason)
    }
    assert reasons >= {Reason.GPU_LOST, Reason.NOT_SUPPORTED}
