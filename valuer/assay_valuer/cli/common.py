"""What the commands share: the configuration option, opening the state, printing."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from assay_core.errors import AssayError, FileError
from assay_valuer.config import ValuerConfig, load
from assay_valuer.state import State, open_state

OK: Final = 0
FALSE: Final = 1
"""The thing asked about does not hold."""
USAGE: Final = 2
UNAVAILABLE: Final = 3
_PROSE_MIN: Final = 40
"""Columns that a sentence in a table needs."""
_READABLE: Final = 100
"""Columns beyond which lines of prose are hard to follow."""

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(commands: Commands, name: str, help_: str, example: str) -> argparse.ArgumentParser:
    """A command's parser, with its example and the option that every command has."""
    parser = commands.add_parser(
        name,
        help=help_,
        description=help_[:1].upper() + help_[1:] + ".",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=os.environ.get("ASSAY_VALUER_CONFIG"),
        metavar="FILE",
        help="valuer.yaml; without it, $ASSAY_VALUER_CONFIG, or the defaults",
    )
    return parser


def config_of(args: argparse.Namespace) -> ValuerConfig:
    """The configuration that the command was given. Raises FileError."""
    path: str | Path | None = args.config
    return load(None if path is None else Path(path))


@contextmanager
def opened(args: argparse.Namespace) -> Iterator[State]:
    """The state that `init` made, closed again afterwards. Raises AssayError."""
    state = open_state(config_of(args))
    try:
        yield state
    finally:
        state.database.close()


def now_ms() -> int:
    """UTC milliseconds, by this machine."""
    return time.time_ns() // 1_000_000


def print_json(content: object) -> None:
    """JSON for machines, on standard output."""
    print(msgspec.json.format(msgspec.json.encode(content), indent=1).decode())


def say(text: str) -> None:
    """A sentence for people, on standard error: standard output is for results."""
    print(text, file=sys.stderr)


def read_text(path: Path) -> str:
    """A file that somebody wrote. Raises FileError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{path}: cannot be read: {why}") from error


def write_file(path: Path, text: str) -> None:
    """Writes a new file. Raises AssayError; an existing one is not overwritten."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise AssayError(f"{path}: exists already; name another file") from error
    except OSError as error:
        raise AssayError(f"{path}: cannot be written: {error.strerror}") from error


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, prose: str | None = None
) -> None:
    """A table; or a paragraph a row where the terminal is narrower, so that nothing is ever cut.

    `prose`: the heading of a column of sentences, which may be wrapped.
    """
    console = Console(highlight=False)
    columns = list(zip(headings, *rows, strict=True))
    widths = [_PROSE_MIN if column[0] == prose else max(map(_width, column)) for column in columns]
    if sum(widths) + 3 * len(widths) + 1 > console.width:
        if headings[0]:
            console.print(Text(f"{headings[0]}:", style="bold"))
        for row in rows:
            console.print(_paragraph(headings, row, prose, console.width))
        return
    table = Table()
    for heading in headings:
        table.add_column(heading, no_wrap=heading != prose, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def print_sentences(title: str, sentences: Sequence[str]) -> None:
    """A heading and what is to be said, each wrapped to a width that is easily read, nothing cut."""
    console = Console(highlight=False)
    lines = [title]
    for text in sentences:
        lines += _wrapped(text, min(console.width, _READABLE))
    console.print(Text("\n".join(lines), overflow="fold"))


def flowing(sentences: Sequence[str]) -> str:
    """Sentences in one paragraph, each ended: some end in words of a person's, without a full stop."""
    return " ".join(
        text if text.endswith((".", "!", "?", ":")) or at == len(sentences) else f"{text}."
        for at, text in enumerate(sentences, 1)
    )


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _width(cell: str) -> int:
    return max(map(cell_len, cell.splitlines()), default=0)


def _paragraph(headings: Sequence[str], row: Sequence[str], prose: str | None, width: int) -> Text:
    """The first cell on a line of its own, the others below it by name, sentences last."""
    cells = dict(zip(headings[1:], row[1:], strict=True))
    sentences = cells.pop(prose, "") if prose is not None else ""
    named = (f"{name} {', '.join(cell.splitlines())}" for name, cell in cells.items() if cell)
    lines = [row[0]]
    for text in ("; ".join(named), flowing(sentences.splitlines())):
        lines += _wrapped(text, width)
    return Text("\n".join(lines), overflow="fold")
