"""House rules that no linter knows. Each test names the file and line that breaks one."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from assay_agent.cli import main as agent
from assay_audit.cli import main as audit
from assay_valuer.cli import main as valuer

ROOT = Path(__file__).resolve().parent.parent.parent
PRODUCT = ("agent/", "valuer/", "core/", "audit/")
PROGRAMS = (*PRODUCT, "scripts/", "demo/", "bench/")
PURE = (
    "core/",
    "valuer/assay_valuer/standing/",
    "valuer/assay_valuer/valuation/",
    "valuer/assay_valuer/forecast/",
    "valuer/assay_valuer/credit/",
    "valuer/assay_valuer/oracle/policy.py",
)
MONEY = (
    "core/assay_core/money.py",
    "core/assay_core/units.py",
    "valuer/assay_valuer/valuation/",
    "valuer/assay_valuer/credit/",
)
# Where the clock is read: commands, services, and what stands in for the world outside.
CLOCK_EDGES = (
    r"/cli(/|\.py$)",
    r"/service\.py$",
    r"/__main__\.py$",
    r"/devchain/",
    # A sample's time is when it was taken; a source stands where the world outside begins.
    r"/telemetry/(nvml_child|nvml|replay|simulated)\.py$",
    r"^agent/assay_agent/host\.py$",  # this machine's clocks and boot id
    r"^(scripts|demo|bench)/",
)
COMMANDS = {"assay-agent": agent, "assay-valuer": valuer, "assay": audit}
FUNCTION_LINES_MAX = 70
FIELDS_PER_COMMENT_MAX = 3


@cache
def files() -> tuple[str, ...]:
    """Every file of the project: tracked, or new and not ignored. Without git, whatever is here."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = set(listed.stdout.decode().split("\0"))
    else:
        ignored = re.compile(r"(^|/)(\.venv|\.git|build|node_modules|__pycache__|\.\w+_cache)/")
        here = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*")}
        names = {name for name in here if not ignored.search(name)}
    return tuple(sorted(name for name in names if name and (ROOT / name).is_file()))


def python(*folders: str) -> list[str]:
    return [
        name
        for name in files()
        if name.endswith(".py") and "_pb2" not in name and name.startswith(folders or ("",))
    ]


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(text(name), name)


def lines_like(names: Iterable[str], pattern: str, flags: int = 0) -> list[str]:
    found = re.compile(pattern, flags)
    broken = []
    for name in names:
        try:
            content = text(name)
        except UnicodeDecodeError:
            continue  # binary: holds no words
        broken += [
            f"{name}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(content.splitlines(), 1)
            if found.search(line)
        ]
    return broken


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(name: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            yield node.lineno, dotted(node.func)


def test_the_project_is_seen_at_all():
    assert len(python(*PRODUCT)) > 20
    assert "Makefile" in files()


def test_a_function_fits_a_screen():
    broken = [
        f"{name}:{node.lineno}: {node.name} has {length} lines"
        for name in python(*PROGRAMS)
        for node in ast.walk(tree(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert broken == []


def test_money_knows_no_floats():
    broken = [
        f"{name}:{node.lineno}: {node.value!r}"
        for name in python(*MONEY)
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Constant) and isinstance(node.value, float | complex)
    ]
    broken += [
        f"{name}:{line}: {call}"
        for name in python(*MONEY)
        for line, call in calls(name)
        if call == "float" or call.startswith("math.")
    ]
    broken += [
        f"{name}:{node.lineno}: true division"
        for name in python(*MONEY)
        for node in ast.walk(tree(name))
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div)
    ]
    assert broken == []


def test_only_the_edges_read_the_clock():
    clock = re.compile(
        r"(^|\.)(time\.(time|time_ns|monotonic|monotonic_ns|perf_counter|clock_gettime(_ns)?)"
        r"|datetime\.(now|utcnow|today)|date\.today)$"
    )
    pure = [f"{n}:{line}: {call}" for n in python(*PURE) for line, call in calls(n)
            if clock.search(call)]  # fmt: skip
    assert pure == []
    wall = re.compile(r"(^|\.)(time\.(time|time_ns)|datetime\.(now|utcnow|today)|date\.today)$")
    edges = re.compile("|".join(CLOCK_EDGES))
    elsewhere = [
        f"{name}:{line}: {call}"
        for name in python(*PRODUCT)
        if not edges.search(name)
        for line, call in calls(name)
        if wall.search(call)
    ]
    assert elsewhere == []


def test_the_product_raises_and_does_not_assert():
    broken = [
        f"{name}:{node.lineno}"
        for name in python(*PROGRAMS)
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Assert)
    ]
    assert broken == []


def test_nothing_is_patched_or_skipped():
    patched = lines_like(python("tests/"), r"\bmock\.patch|import mock\b|unittest\.mock|\bmocker\b")
    # The one way to leave a test out says so in the summary: tests/conftest.py.
    others = [
        name for name in python("tests/")
        if name not in ("tests/conftest.py", "tests/unit/test_tidy.py")
    ]  # fmt: skip
    skipped = lines_like(others, r"\b(skip|skipif|xfail|importorskip|SkipTest|skipTest)\b *\(")
    mine = [line for line in patched if not line.startswith("tests/unit/test_tidy.py")]
    assert mine + skipped == []


def test_nothing_is_left_to_do():
    others = [
        name
        for name in files()
        if name not in ("tests/unit/test_tidy.py", "pyproject.toml")
        and not name.startswith("requirements/")
        and "_pb2" not in name
        and not name.endswith((".json", ".hex"))
    ]
    words = "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX"))
    assert lines_like(others, rf"\b({words})\b") == []


def test_an_exception_caught_whole_says_why():
    broken = [
        f"{name}:{number}"
        for name in python(*PROGRAMS)
        for number, line in enumerate(text(name).splitlines(), 1)
        if re.search(r"except (Base)?Exception\b", line)
        and "#" not in line
        and "#" not in text(name).splitlines()[number - 2]
        and "#" not in [*text(name).splitlines(), ""][number]
    ]
    assert broken == []


def test_no_file_names_a_registry_or_a_place_where_it_was_made():
    hosts = (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "(org|com)"),
        ("yarnpkg", "com"),
        ("debian", "org"),
        ("crates", "io"),
        ("docker", "io"),
    )
    pattern = "|".join(rf"\b{name}\.{end}\b" for name, end in hosts)
    assert lines_like(files(), pattern, re.IGNORECASE) == []
    assert lines_like(files(), r"(^|[\s\"'=(])/" + r"work/(main|shared)\b") == []


def test_lock_files_pin_by_hash_and_record_no_address():
    locks = ("requirements/dev.txt", "requirements/run.txt", "contracts/package-lock.json")
    assert lines_like(locks[:2], r"[a-z+]://|--(extra-)?index-url|--find-links") == []
    assert lines_like(locks[2:], r'"resolved"') == []
    for name in locks[:2]:
        entries = re.split(r"\n(?=\S)", text(name).strip())
        assert len(entries) > 50
        for entry in entries:
            assert re.match(r"[A-Za-z0-9._-]+==\S+", entry), f"{name}: {entry[:60]}"
            assert "--hash=sha256:" in entry, f"{name}: {entry[:60]} has no hash"
    lock = text(locks[2])
    assert lock.count('"integrity"') == lock.count('"node_modules/')


def test_lock_files_hold_what_the_project_asks_for():
    project = tomllib.loads(text("pyproject.toml"))["project"]
    asked = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    development = [
        line.partition("#")[0].strip()
        for line in text("requirements/dev.in").splitlines()
        if line.partition("#")[0].strip()
    ]
    for lock, wanted in (("run", asked), ("dev", asked + development)):
        pins = dict(
            re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text(f"requirements/{lock}.txt"), re.MULTILINE)
        )
        pins = {canonicalize_name(name): version for name, version in pins.items()}
        for line in wanted:
            requirement = Requirement(line)
            pin = pins.get(canonicalize_name(requirement.name))
            assert pin is not None, f"requirements/{lock}.txt has no {requirement.name}: make lock"
            assert requirement.specifier.contains(pin, prereleases=True), f"{line}: {pin}"


@pytest.mark.parametrize("name", [name for name in files() if name.endswith(".proto")])
def test_every_proto_field_says_what_it_is(name):
    """A comment on the field, or above it; a few neighbours may share one, a message's body of a
    few fields may be covered by the message's own."""
    broken, covered, message_covered, opened = [], 0, False, False
    for number, line in enumerate(text(name).splitlines(), 1):
        bare = line.strip()
        if bare.startswith("//"):
            covered, opened = FIELDS_PER_COMMENT_MAX, False
        elif re.match(r"(message|enum|oneof|service)\b", bare):
            message_covered = covered > 0
            covered = FIELDS_PER_COMMENT_MAX if message_covered else 0
            opened = bare.startswith("oneof")
        elif re.match(r"((optional|repeated) )?[A-Za-z][\w.]* \w+ = \d+;|[A-Z_0-9]+ = \d+;", bare):
            if "//" not in bare:
                # The cases of a commented oneof need no words of their own: their types have them.
                covered -= 0 if opened else 1
                if covered < 0:
                    broken.append(f"{name}:{number}: {bare}")
        elif not bare:
            covered = 0
    assert broken == []


def documents() -> list[str]:
    return [name for name in files() if name.endswith(".md")]


def commands(name: str) -> set[str]:
    """What a page tells its reader to type: fenced blocks, and code in the running text."""
    fenced = re.findall(r"```(?:sh|bash|console|shell)?\n(.*?)```", text(name), re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", text(name))
    return {line.strip().removeprefix("$ ") for part in (*fenced, *inline)
            for line in part.splitlines()}  # fmt: skip


def test_every_make_target_a_page_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    named = {
        f"{name}: make {target}"
        for name in documents()
        for line in commands(name)
        for target in re.findall(r"^make ([a-z-]+)", line)
        if target not in targets
    }
    assert named == set()


def test_every_command_a_page_names_exists():
    named: dict[tuple[str, ...], str] = {}
    for name in documents():
        for line in commands(name):
            for match in re.finditer(
                r"(?:^|[\s/])(assay(?:-agent|-valuer)?) ((?!assay)[a-z][a-z-]+)(?: ([a-z][a-z-]+))?",
                line,
            ):
                named.setdefault(tuple(word for word in match.groups() if word), name)
    broken = []
    for words, name in sorted(named.items()):
        # A second word is a subcommand of a group, or the first argument of a command.
        tries = (words, words[:2])
        if not any(_has_help(attempt) for attempt in tries):
            broken.append(f"{name}: {' '.join(words)}")
    assert named
    assert broken == []


@cache
def _has_help(words: tuple[str, ...]) -> bool:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            COMMANDS[words[0]]([*words[1:], "--help"])
        except SystemExit as done:
            return done.code == 0
    return False


def test_every_relative_link_leads_somewhere():
    broken = []
    for name in documents():
        for target in re.findall(r"\]\(([^)\s]+)\)", text(name)):
            path, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            page = (ROOT / name).parent / path if path else ROOT / name
            if not page.exists():
                broken.append(f"{name}: {target}")
            elif anchor and anchor not in anchors(page):
                broken.append(f"{name}: {target}: no such heading")
    assert broken == []


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_agent_waits_with_asyncio_timeout():
    """Before Python 3.12 `asyncio.wait_for` can lose a cancellation that comes as its wait ends."""
    waits = [
        f"{name}:{line}"
        for name in python("agent/")
        for line, call in calls(name)
        if call == "asyncio.wait_for"
    ]
    assert waits == []
