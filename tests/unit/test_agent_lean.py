"""What the agent's processes do not load, so that they stay small on every host."""

from __future__ import annotations

import subprocess
import sys

import pytest

from assay_agent.telemetry import binding


def loaded(module: str) -> set[str]:
    """Every module in a process that has just imported this one."""
    program = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        (
            "assay_agent.telemetry.nvml_child",
            {"asyncio", "cryptography", "google", "grpc", "structlog", "prometheus_client"}
            | {"ctypes.util", "shutil", "ssl", "subprocess", "tempfile", "typing_extensions"},
        ),
        ("assay_agent.cli.run", {"rich", "pynvml", "sqlalchemy"}),
    ],
)
def test_a_process_carries_nothing_it_does_not_use(module, unwanted):
    assert loaded(module) & unwanted == set()


def test_the_binding_could_still_look_for_a_library():
    assert binding._find_library("no such library") is None
    assert binding._find_library("c") is not None
