"""`assay-agent read`: what this host's GPUs say now."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Final

from assay_agent import config
from assay_agent.config import SourceConfig
from assay_agent.telemetry.fields import uuid_of
from assay_agent.telemetry.reading import Depth, GpuReading, Poll, Sample
from assay_agent.telemetry.sources import make_source
from assay_core import codec
from assay_core.errors import FileError
from assay_core.header import Source
from assay_core.leaves import DriverState, Group, MigInstance, Reason

Json = int | str | dict[str, "Json"] | list["Json"]

GROUPS: Final = (Group.IDENTITY, Group.HEALTH, Group.CONDITION, Group.USE)
"""The groups of a GPU, in the order in which they are shown."""
HOST_GROUPS: Final = (Group.HOST, Group.PLATFORM)
WINDOWS: Final = frozenset(
    {
        "polls",
        "events",
        "incidents",
        "energy_lifetime_mj",
        "maintenance_until_ms",
        "missing_gpus",
        "clock_step_ms",
        "health_rules",
    }
)
"""Fields that no single look can know: the agent adds them up for its windows."""
_GPM_WAIT_MS: Final = 250
"""Performance is measured between two looks, which must lie over 100 ms apart."""
_NAME_BYTES_MIN: Final = 4


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "read",
        help="read the GPUs once and show what they say",
        description="Reads everything of every GPU once: a line a GPU, or with --gpu every field of "
        "one. Needs no enrolment and no configuration. In JSON a field is its value or "
        '{"reason": "..."}, never null. A GPU is named by its place on the PCI bus, its serial or '
        "its UUID: the driver's numbers change. Exit status 1: the driver did not answer, or not "
        "for each GPU.",
        epilog="example: assay-agent read --gpu 1b:00 --json",
    )
    parser.add_argument("--json", action="store_true", help="for machines; every field")
    parser.add_argument(
        "--gpu",
        action="append",
        metavar="NAME",
        help="only this GPU, and every field of it; PCI address, serial or UUID, or the end or "
        "beginning of one; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Reads and prints."""
    kind, poll = asyncio.run(_read(config.load(args.config).source))
    problem = _problem(poll)
    if args.gpu:
        poll = dataclasses.replace(poll, gpus=_chosen(poll, args.gpu))
    if args.json:
        print(json.dumps(document(kind, poll), indent=2))
    else:
        from assay_agent.cli import read_table  # noqa: PLC0415 - JSON does without rich

        read_table.show(kind, poll, whole=bool(args.gpu))
    if problem is None:
        return 0
    print(f"assay-agent: {problem}; assay-agent check says what to do", file=sys.stderr)
    return 1


def _problem(poll: Poll) -> str | None:
    """What keeps this from being the whole host; None where nothing does."""
    if poll.driver is not DriverState.RUNNING:
        version = poll.host.get("driver_version", Reason.NOT_SAMPLED)
        reasons = {sample for sample in poll.host.values() if isinstance(sample, Reason)}
        if Reason.NO_PERMISSION in reasons and isinstance(version, Reason):
            return "this user may not use the GPUs' driver (no_permission)"
        why = version.label if isinstance(version, Reason) else "reason unknown"
        return f"the driver is {poll.driver.name.lower()} ({why})"
    count = poll.host["gpu_count"]
    if isinstance(count, int) and not isinstance(count, Reason) and count > len(poll.gpus):
        return f"{count - len(poll.gpus)} of {count} GPUs answer nothing, not even who they are"
    return None


def _chosen(poll: Poll, names: list[str]) -> tuple[GpuReading, ...]:
    """The GPUs that are named. Raises FileError for a name of none, or of several."""
    chosen: list[GpuReading] = []
    for name in names:
        found = [gpu for gpu in poll.gpus if _is_named(gpu, name)]
        if len(found) != 1 or len(name) < _NAME_BYTES_MIN:
            known = ", ".join(
                str(gpu.values.get("pci_bus_id", uuid_of(gpu.subject))) for gpu in poll.gpus
            )
            many = "more than one GPU" if len(found) > 1 else "no GPU"
            raise FileError(f"--gpu {name}: {many} is called that; here are {known or 'none'}")
        if found[0] not in chosen:
            chosen.append(found[0])
    return tuple(chosen)


def _is_named(gpu: GpuReading, name: str) -> bool:
    name = name.lower()
    address = str(gpu.values.get("pci_bus_id", "")).lower()
    serial = str(gpu.values.get("serial", "")).lower()
    uuid = uuid_of(gpu.subject).lower()
    return (
        name in (serial, uuid, uuid.removeprefix("gpu-"))
        or address.endswith(name)
        or address.removesuffix(".0").endswith(name)
        or uuid.startswith(name)
        or uuid.removeprefix("gpu-").startswith(name)
    )


def document(kind: Source, poll: Poll) -> dict[str, Json]:
    """The poll for machines: the source, host, platform and each GPU's groups, every field of each.

    What only a window can know is {"reason": "not_sampled"}.
    """
    host: dict[str, Json] = {
        "driver_state": poll.driver.name.lower(),
        "abandoned_processes": poll.abandoned_processes,
    }
    gpus: list[Json] = []
    for gpu in poll.gpus:
        said: dict[str, Json] = {"uuid": uuid_of(gpu.subject)}
        for group in GROUPS:
            said[group.value] = _group(group, gpu.values)
        gpus.append(said)
    return {
        "source": kind.name.lower(),
        "host": {**_group(Group.HOST, poll.host), **host},
        "platform": _group(Group.PLATFORM, poll.host),
        "gpus": gpus,
    }


def _group(group: Group, values: Mapping[str, Sample]) -> dict[str, Json]:
    return {name: _json(values.get(name, Reason.NOT_SAMPLED)) for name in codec.fields_of(group)}


def _json(sample: Sample) -> Json:
    if isinstance(sample, Reason):
        return {"reason": sample.label}
    if isinstance(sample, int | str):
        return sample
    return [_instance(item) if isinstance(item, MigInstance) else item for item in sample]


def _instance(instance: MigInstance) -> Json:
    activity = instance.activity
    names = ("graphics", "sm", "sm_occupancy", "tensor", "dram")
    return {
        "gpu_instance_id": instance.gpu_instance_id,
        "memory_mib": instance.memory_mib,
        "activity_pct": {"reason": activity.label}
        if isinstance(activity, Reason)
        else dict(zip(names, activity, strict=True)),
    }


async def _read(settings: SourceConfig) -> tuple[Source, Poll]:
    """Everything, and then once more what is measured between two looks."""
    source = make_source(settings)
    try:
        first = await source.poll(0, Depth.DAY)
        if source.kind is not Source.NVML or first.driver is not DriverState.RUNNING:
            return source.kind, first
        await asyncio.sleep(_GPM_WAIT_MS / 1_000)
        return source.kind, _joined(first, await source.poll(0, Depth.TICK))
    finally:
        await source.close()


def _joined(first: Poll, then: Poll) -> Poll:
    """The later look, with what it did not read again taken from the earlier one."""
    if then.driver is not DriverState.RUNNING:
        return then
    known = {gpu.subject: gpu.values for gpu in first.gpus}
    gpus = tuple(
        GpuReading(gpu.subject, {**known.get(gpu.subject, {}), **gpu.values}) for gpu in then.gpus
    )
    return dataclasses.replace(then, host={**first.host, **then.host}, gpus=gpus)
