"""Files that people write: YAML read strictly, every error with its line and its field.

YAML here is the plain part of it: mappings, sequences, and scalars that are null, true or false,
integers, decimal numbers or strings. Anchors, tags and duplicate keys are refused, so a file says
what it seems to say. JSON is read by the same function.
"""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec
import yaml

from assay_core.errors import FileError

FILE_BYTES_MAX: Final = 4 * 1024 * 1024
DEPTH_MAX: Final = 32

_T = TypeVar("_T")
Tree = None | bool | int | float | str | list["Tree"] | dict[str, "Tree"]
Path = tuple[str | int, ...]

_UNKNOWN: Final = re.compile(r"unknown field `([^`]+)`")
_INTEGER: Final = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*")
_DECIMAL: Final = re.compile(r"[-+]?[0-9]+\.[0-9]+(?:[eE][-+]?[0-9]+)?")
_DIGITS_MAX: Final = 100
_WORDS: Final[dict[str, bool | None]] = {
    "": None,
    "null": None,
    "~": None,
    "true": True,
    "false": False,
}


def parse(text: str, type_: type[_T], name: str) -> _T:
    """Reads `text`, the contents of the file called `name`, as a `type_`.

    Raises FileError with the file's name, the line and the field for anything that does not fit:
    syntax, duplicate or unknown keys, missing or mistyped values.
    """
    if len(text) > FILE_BYTES_MAX:
        raise FileError(f"{name}: larger than {FILE_BYTES_MAX} bytes")
    lines: dict[Path, int] = {}
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"{mark.line + 1}" if mark else "?"
        raise FileError(f"{name}:{line}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise FileError(f"{name}: {error}") from error
    # An empty file, or one of comments alone, sets nothing.
    tree: Tree = {} if node is None else _tree(node, (), lines, name)
    try:
        return msgspec.convert(tree, type_, strict=True)
    except msgspec.ValidationError as error:
        message, _, location = str(error).partition(" - at `")
        path = _path(location.removesuffix("`"))
        unknown = _UNKNOWN.search(message)
        if unknown is not None and (*path, unknown[1]) in lines:
            path = (*path, unknown[1])
        while path and path not in lines:
            path = path[:-1]
        field = ".".join(str(part) for part in path) or "the file"
        raise FileError(f"{name}:{lines.get(path, 1)}: {field}: {message}") from error


def line_of(text: str, path: Path) -> int:
    """The line of a field in a text that `parse` took, or of the nearest thing around it."""
    lines: dict[Path, int] = {}
    node = yaml.compose(text, Loader=_Loader)
    if node is not None:
        _tree(node, (), lines, "")
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


class _Loader(yaml.SafeLoader):
    """PyYAML's own, less aliases, and bounded before it recurses."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As PyYAML's; an alias could make a small file a large tree."""
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it out
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            problem = "anchors and aliases are not taken"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem="tags are not taken", problem_mark=event.start_mark)
        if self._depth > DEPTH_MAX:
            problem = f"nested deeper than {DEPTH_MAX}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _tree(node: yaml.Node, path: Path, lines: dict[Path, int], name: str) -> Tree:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if isinstance(node, yaml.ScalarNode):
        try:
            return _scalar(node)
        except ValueError as error:
            raise FileError(f"{name}:{line}: {error}") from error
    if isinstance(node, yaml.SequenceNode):
        return [_tree(item, (*path, i), lines, name) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        raise FileError(f"{name}:{line}: not a mapping, a list or a value")
    mapping: dict[str, Tree] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise FileError(f"{name}:{key.start_mark.line + 1}: a key must be a plain word")
        if key.value in mapping:
            raise FileError(f"{name}:{key.start_mark.line + 1}: {key.value}: given twice")
        lines[(*path, key.value)] = key.start_mark.line + 1
        mapping[key.value] = _tree(value, (*path, key.value), lines, name)
    return mapping


def _scalar(node: yaml.ScalarNode) -> Tree:
    text: str = node.value
    if node.style is not None:  # quoted or block: a string, whatever it looks like
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        if len(text) > _DIGITS_MAX:
            raise ValueError(f"a number of more than {_DIGITS_MAX} digits")
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    return text


def _path(location: str) -> Path:
    """msgspec's `$.loans[0].rate` to ("loans", 0, "rate")."""
    parts: list[str | int] = []
    for key, index in re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", location):
        parts.append(key or (int(index) if index.isdigit() else index))
    return tuple(parts)
