"""`assay-agent show-outgoing`: every field that a window would carry, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assay_agent.cli import main
from assay_core import codec
from assay_core.leaves import OF_HOST, Group

SCENARIO = """
seed: 7
fleets:
  - {profile: h100, count: 1, mig: 2, load: {shape: steady}}
  - {profile: l40s, count: 1}
faults:
  - {at_s: 0, kind: fall_off_bus, gpu: 1}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    path = tmp_path / "agent.yaml"
    path.write_text(
        f"state_dir: {tmp_path}\nsource: {{kind: simulated, file: {tmp_path / 'scenario.yaml'}}}\n"
    )
    return str(path)


def test_every_field_of_every_leaf_is_there(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show-outgoing", "--json", "--config", config]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["sealed"], document["source"]) == (False, "simulated")
    leaves = {
        (leaf["subject"], Group(leaf["group"])): leaf["fields"] for leaf in document["leaves"]
    }
    for (subject, group), fields in leaves.items():
        assert fields.keys() == codec.fields_of(group).keys()
        assert (subject == "host") is (group in OF_HOST)
        assert None not in fields.values()
    assert {group for _, group in leaves} == set(Group)
    uses = [fields for (_, group), fields in leaves.items() if group is Group.USE]
    (use,) = (fields for fields in uses if isinstance(fields["mig_instances"], list))
    assert [one["gpu_instance_id"] for one in use["mig_instances"]] == [0, 1]
    assert use["mig_instances"][0]["activity"]["sm_activity_pct"] == 92
    (lost,) = (fields for fields in leaves.values() if fields.get("tenancy") == "gone")
    assert "gpu_lost" in {one["kind"] for one in lost["incidents"]}
    assert {event["kind"] for event in lost["events"]} == {"xid", "gpu_lost"}
    assert lost["temperature_mc"] == {"reason": "gpu_lost"}


def test_a_person_reads_a_table_a_leaf(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show-outgoing", "--config", config]) == 0
    shown = capsys.readouterr().out
    for group in Group:
        assert f": {group.value}" in shown
    assert "SIMULATED READINGS" in shown.replace("\n", " ")
