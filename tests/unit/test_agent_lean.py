"""What the agent's processes do not load, so that they stay small on every host."""

from __future__ import annotations

import subprocess
import sys

import pytest

from assay_agent import lean
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
            | {"ctypes.util", "shutil", "ssl", "subprocess", "tempfile", "typing_extensions"}
            | {"ast", "decimal", "hashlib", "inspect", "uuid"},
        ),
        # Imported by the agent whether evidence is switched on or not.
        (
            "assay_agent.cli.run, assay_agent.evidence.collectors",
            {"pynvml", "ssl", "_ssl", "_hashlib", "decimal"},
        ),
        (
            "assay_agent.cli.run",
            {"rich", "pynvml", "sqlalchemy", "prometheus_client", "http.server"}
            | {"ssl", "_ssl", "_hashlib", "decimal"},
        ),
    ],
)
def test_a_process_carries_nothing_it_does_not_use(module, unwanted):
    assert loaded(module) & unwanted == set()


def test_the_binding_could_still_look_for_a_library():
    assert binding._find_library("no such library") is None
    assert binding._find_library("c") is not None


def test_a_stand_in_gives_what_it_has_and_the_rest_is_the_real_modules(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    mine = object()
    stand_in = lean._stand_in("colorsys", ONE_THIRD=mine)
    with lean.instead("colorsys", stand_in):
        import colorsys

        assert colorsys.ONE_THIRD is mine
        assert sys.modules["colorsys"] is stand_in
        assert colorsys.rgb_to_hls(0, 0, 0) == (0.0, 0.0, 0.0)
        with pytest.raises(AttributeError):
            _ = colorsys.nothing
    assert sys.modules["colorsys"] is not stand_in
    assert sys.modules["colorsys"].ONE_THIRD == 1 / 3


def test_a_stand_in_that_nobody_asked_more_of_is_gone_afterwards(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with lean.instead("colorsys", lean._stand_in("colorsys")):
        pass
    assert "colorsys" not in sys.modules


def test_what_is_loaded_bare_works():
    """A class with no docstring makes dataclasses look at it; a message is a message."""
    program = """
from assay_agent import lean
with lean.bare():
    import dataclasses, msgspec
@dataclasses.dataclass
class Plain:
    one: int
class Message(msgspec.Struct):
    one: int
assert msgspec.json.decode(msgspec.json.encode(Message(1)), type=Message) == Message(1)
assert Plain.__doc__ == "Plain(one: int)" or Plain.__doc__ == "Plain(one: 'int')", Plain.__doc__
import decimal, inspect, uuid
assert str(uuid.UUID(int=1)) and decimal.Decimal("1.5") and inspect.signature(Plain)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_runs_without_openssl_for_asyncio():
    """The command that systemd starts; asyncio takes ssl where it finds it."""
    program = (
        "import sys; from assay_agent.cli import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: print('modules', *sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    modules = set(done.stdout.rpartition("modules ")[2].split())
    assert "assay_agent.service" in modules
    assert modules & {"ssl", "_ssl", "prometheus_client", "http.server", "wsgiref"} == set()
