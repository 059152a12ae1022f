"""docs/privacy.md is the whole list of what leaves a host, and nothing outside it does."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator

import pytest
from google.protobuf.message import Message

from assay_proto.v1 import attestation_pb2, window_pb2
from scripts import privacy
from tests.golden.make import HERE

PAGE = privacy.PAGE.read_text()


def listed(page: str) -> set[str]:
    """What the page lists, as "Message.field"."""
    found: set[str] = set()
    message = ""
    for line in page.splitlines():
        if line.startswith("#"):
            message = line.removeprefix("### ")
        elif row := re.match(r"\| `(\w+)` \|", line):
            found.add(f"{message}.{row[1]}")
    return found


def carried(message: Message) -> Iterator[str]:
    """What a message carries, as "Message.field", in messages within it too."""
    for field, value in message.ListFields():
        yield f"{message.DESCRIPTOR.name}.{field.name}"
        if field.message_type is not None:
            for item in value if privacy.is_list(field) else [value]:
                yield from carried(item)


def a_window() -> attestation_pb2.AgentMessage:
    """A sealed window as it goes to the valuer, every group in it."""
    golden = json.loads((HERE / "window_v1.json").read_text())
    envelope = golden["envelope"]
    return attestation_pb2.AgentMessage(
        window=attestation_pb2.SealedWindow(
            envelope=attestation_pb2.Envelope(
                payload=base64.b64decode(envelope["payload"]),
                payload_type=envelope["payloadType"],
                signatures=[
                    attestation_pb2.Signature(sig=base64.b64decode(one["sig"]), keyid=one["keyid"])
                    for one in envelope["signatures"]
                ],
            ),
            leaves=[base64.b64decode(one["leaf"]) for one in golden["leaves"]],
        )
    )


def outside(message: attestation_pb2.AgentMessage, page: str) -> set[str]:
    """What a sealed window carries that the page does not list."""
    window = message.window
    found = set(carried(message))
    found |= set(carried(window_pb2.Header.FromString(window.envelope.payload)))
    for leaf in window.leaves:
        found |= set(carried(window_pb2.Leaf.FromString(leaf)))
    return found - listed(page)


def test_the_page_is_up_to_date():
    assert privacy.page() == PAGE, "run make docs"


def test_a_window_carries_nothing_outside_the_page():
    window = a_window()
    assert {
        window_pb2.Leaf.FromString(leaf).WhichOneof("body") for leaf in window.window.leaves
    } == {"identity", "health", "use", "host", "condition", "platform"}
    assert outside(window, PAGE) == set()


@pytest.mark.parametrize(
    "field", ["Identity.serial", "Use.power_mw", "Gauge.min", "Event.code", "Header.boot_id"]
)
def test_a_field_outside_the_page_is_noticed(field):
    message, name = field.split(".")
    head, found, tail = PAGE.partition(f"### {message}\n")
    assert found
    shorter = head + found + re.sub(rf"\| `{name}` \|.*\n", "", tail, count=1)
    assert outside(a_window(), shorter) == {field}


def test_every_field_that_could_be_sent_is_listed():
    every = {f"{one.name}.{field.name}" for one in privacy.reachable() for field in one.fields}
    assert privacy.event_fields() == set(privacy.EVENT)
    every |= {f"AssetEvent.{name}" for name in privacy.EVENT}
    assert listed(PAGE) == every
    assert len(every) > 250


def test_every_field_says_what_it_is():
    empty = [line for line in PAGE.splitlines() if re.match(r"\| `\w+` \| [^|]*\|\s*\|", line)]
    assert empty == []


def test_no_field_could_hold_a_name_of_a_tenants():
    """Every text that a leaf can hold, so that a new one is looked at by a person."""
    texts = {
        f"{one.name}.{field.name}"
        for one in privacy.reachable()
        for field in one.fields
        if field.type == field.TYPE_STRING
    }
    assert texts == {
        "Identity.name",  # the GPU's
        "Identity.serial",
        "Identity.board_part_number",
        "Identity.vbios_version",
        "Identity.inforom_image_version",
        "Identity.pci_bus_id",
        "Identity.attestation_certificate_sha256",
        "Identity.chassis_serial",
        "Condition.fabric_cluster_uuid",
        "HostState.driver_version",
        "HostState.nvml_version",
        "HostState.hidden_gpus",  # PCI addresses
        "HostState.phantom_gpus",
        "Platform.kernel_module_version",
        "Platform.library_path",
        "Platform.library_sha256",
        "Platform.library_package",
        "Platform.health_rules",
        "Platform.kernel_log",
        "Header.host_id",  # as the valuer called it
        "Header.agent_version",
        "GapRecord.host_id",
        "Hello.agent_version",
        "Envelope.payload_type",
        "Signature.keyid",
        "EnrollStatement.token_id",
        "EnrollStatement.sealing_algorithm",
        "EnrollStatement.agent_version",
        "RenewStatement.host_id",
        "RotateStatement.host_id",
        "RotateStatement.sealing_algorithm",
        "EvidenceStatement.host_id",
        "EvidenceStatement.devices_absent",  # a sentence of the agent's own
    }
