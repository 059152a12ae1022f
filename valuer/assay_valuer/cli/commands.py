"""The commands of `assay-valuer`: the service and its administration.

Exit codes: 0 all is well, 1 what was asked about does not hold, 2 usage or a bad file, 3 something
is not available.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

from assay_core.errors import AssayError, FileError, ServiceError
from assay_valuer.cli import (
    api_token,
    appraisal,
    asset,
    backtest,
    check,
    covenant,
    explain,
    export,
    gpu,
    host,
    init,
    loan,
    log,
    market,
    oracle,
    party,
    price,
    replay,
    run,
    score,
    stress,
    token,
    value,
)
from assay_valuer.cli.common import FALSE, UNAVAILABLE, USAGE, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    args = parser().parse_args(arguments)
    log.configure()
    command: Callable[[argparse.Namespace], int] = args.run
    try:
        return command(args)
    except FileError as error:
        say(str(error))
        return USAGE
    except ServiceError as error:
        say(str(error))
        return UNAVAILABLE
    except AssayError as error:
        say(str(error))
        return FALSE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return FALSE


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root = argparse.ArgumentParser(
        prog="assay-valuer",
        description="Takes what GPU hosts attest, values it as collateral, and publishes.",
        epilog="example: assay-valuer init && assay-valuer run. Exit status 0: well; 1: what was asked "
        "about does not hold; 2: a wrong argument or file; 3: what is needed does not answer, or is not "
        "installed. Each command: COMMAND --help.",
    )
    root.add_argument("--version", action="version", version=f"assay-valuer {version('gpu-assay')}")
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    for command in (
        init,
        run,
        check,
        token,
        api_token,
        host,
        price,
        market,
        loan,
        covenant,
        appraisal,
        gpu,
        asset,
        party,
        value,
        explain,
        replay,
        score,
        stress,
        backtest,
        oracle,
        export,
    ):
        command.add_parser(commands)
    return root
