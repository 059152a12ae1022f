"""How deep JSON nests, looked at before it is parsed.

Parsers end at the interpreter's recursion limit, and libraries raise that: with py_ecc's 100,000, which
eth-account brings along, Python's own parser overruns the stack and ends the whole process.
"""

from __future__ import annotations

import re
from typing import Final

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_BRACKET: Final = re.compile(r"[\[\]{}]")


def nests_deeper(text: str, levels: int) -> bool:
    """Whether lists and objects stand inside each other more than `levels` deep.

    Brackets inside strings are none. Of what is not JSON, the answer may be either: parsing it fails.
    """
    deep = 0
    for found in _BRACKET.finditer(_STRING.sub("", text)):
        deep += 1 if found.group() in "[{" else -1
        if deep > levels:
            return True
    return False
