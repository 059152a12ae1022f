"""What a test needs from the machine, and what is said when the machine has not got it.

A test that needs a tool asks for it: `def test_x(requires_tool): anvil = requires_tool("anvil")`.
Where the tool cannot be had the test is left out, and the terminal summary names it and the
reason; under CI=true it fails instead. `leave_out(why)` is for what no set-up can bring, such as
real captures that are not part of the project or a GPU: named in the summary, never a failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import structlog
from hypothesis import settings

from scripts import tools

settings.register_profile("assay", deadline=None)  # timing is never asserted in a test
settings.load_profile("assay")

_LEFT_OUT = "left out"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "kill: kills processes at random points; ASSAY_KILLS says how many times"
    )


@pytest.fixture(autouse=True)
def _logs_of_its_own() -> Iterator[None]:
    """A command run in this process points the logs at this test's own stderr: point them back."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def leave_out(request: pytest.FixtureRequest) -> Callable[[str], NoReturn]:
    """Leave this test out, loudly: what it needs is nothing a set-up could have fetched."""

    def leave(why: str) -> NoReturn:
        request.node.user_properties.append((_LEFT_OUT, why))  # reaches us from any worker
        pytest.skip(why)

    return leave


@pytest.fixture
def requires_tool(
    leave_out: Callable[[str], NoReturn],
) -> Callable[[str], Path]:
    """The path of a tool that `make test` fetches; see scripts/tools.py for the names."""

    def require(name: str) -> Path:
        found = tools.locate(name)
        if isinstance(found, Path):
            return found
        why = f"{name} is not available: {found.why}"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{why}. Under CI=true every test must run.", pytrace=False)
        return leave_out(why)

    return require


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left_out = [
        (report.nodeid, why)
        for report in terminalreporter.getreports("skipped")
        for name, why in report.user_properties
        if name == _LEFT_OUT
    ]
    if not left_out:
        return
    terminalreporter.section("LEFT OUT", sep="=", yellow=True, bold=True)
    for test, why in left_out:
        terminalreporter.write_line(f"left out: {test} because {why}")
