"""JSON that nests too deep is refused before a parser sees it, whatever the recursion limit is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay_valuer.nesting import nests_deeper

LEAVES = st.none() | st.booleans() | st.integers() | st.text()
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30
)


def depth(tree) -> int:
    if isinstance(tree, dict):
        return 1 + max(map(depth, tree.values()), default=0)
    return 1 + max(map(depth, tree), default=0) if isinstance(tree, list) else 0


@given(TREES)
def test_it_is_as_deep_as_what_is_read_from_it(tree):
    for text in (json.dumps(tree), json.dumps(tree, ensure_ascii=False, indent=1)):
        assert not nests_deeper(text, depth(tree))
        assert depth(tree) == 0 or nests_deeper(text, depth(tree) - 1)


def test_brackets_in_strings_are_none():
    assert not nests_deeper(json.dumps(["[[[[", '\\"[[[[', {"{{{{": "}}"}]), 2)


DIES = """
import sys
sys.setrecursionlimit(100_000)  # as py_ecc does, which eth-account imports
from assay_core.errors import AssayError
from assay_valuer.api.bodies import strict_json
from assay_valuer.api.problems import Problem
from assay_valuer.market.feeds.feed import Format
from assay_valuer.market.feeds.rows import parse
from assay_valuer.market.observations import Market
deep = {deep!r} * 200_000
for read in (
    lambda: strict_json(deep.encode()),
    lambda: parse(deep.encode(), Format.JSON, Market.RENTAL, "feed"),
):
    try:
        read()
    except (Problem, AssayError) as error:
        print("refused:", error)
"""


@pytest.mark.parametrize("deep", ["[", '{"a":'])
def test_a_process_outlives_it_whatever_its_recursion_limit(deep):
    command = [sys.executable, "-c", DIES.format(deep=deep)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused:") == 2
    assert done.stdout.count("nested too deep") == 2
