"""Ask the public advisory services about every package the lock files name.

A known vulnerability fails. A service that cannot be reached, or does not know a package, is not
a clean bill: those packages are named as NOT AUDITED, here and in the last lines of `make check`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
VERDICT: Final = ROOT / "build" / "audit.txt"
LOCKED: Final = ROOT / "requirements" / "dev.txt"
SECONDS_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class Audit:
    """One ecosystem's answer: what is known to be vulnerable, and what nobody answered for."""

    ecosystem: str
    packages: int
    vulnerable: tuple[str, ...]
    not_audited: tuple[str, ...]
    why_not: str = ""


def _run(argv: Sequence[str], cwd: Path) -> tuple[str, str]:
    try:
        done = subprocess.run(
            argv, cwd=cwd, capture_output=True, text=True, check=False, timeout=SECONDS_MAX
        )
    except FileNotFoundError:
        return "", f"{argv[0]} is not installed"
    except subprocess.TimeoutExpired:
        return "", f"{argv[0]} had no answer within {SECONDS_MAX} s"
    return done.stdout, done.stderr


def _last_line(text: str, otherwise: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # Advisory services answer with addresses; the reader needs the reason alone.
    return re.sub(r"https?://\S+", "the service", lines[-1]) if lines else otherwise


def _locked_names() -> list[str]:
    return re.findall(r"^([A-Za-z0-9._-]+)==", LOCKED.read_text(), re.MULTILINE)


def audit_python() -> Audit:
    """pip-audit over the hashed requirements; it asks by name and version and installs nothing."""
    tool = Path(sys.executable).with_name("pip-audit")
    argv = [
        *(str(tool), "--requirement", str(LOCKED), "--require-hashes", "--disable-pip"),
        *("--progress-spinner", "off", "--format", "json"),
    ]
    out, err = _run(argv, ROOT)
    return read_pip_audit(out, err, _locked_names())


def read_pip_audit(out: str, err: str, names: Sequence[str]) -> Audit:
    """What pip-audit's JSON says of the packages. No answer at all leaves them all not audited."""
    try:
        rows = json.loads(out)["dependencies"]
    except (ValueError, KeyError):
        return Audit("Python", len(names), (), tuple(names), _last_line(err, "no answer"))
    vulnerable = [
        f"{row['name']} {row['version']}: {', '.join(v['id'] for v in row['vulns'])}"
        for row in rows
        if row.get("vulns")
    ]
    skipped = [row["name"] for row in rows if "skip_reason" in row]
    answered = {row["name"].lower().replace("_", "-") for row in rows if "vulns" in row}
    # Whatever has no answer was not audited, whether or not the tool says that it skipped it.
    silent = [name for name in names if name.lower().replace("_", "-") not in answered]
    why = "the service does not know them, or cannot be reached" if skipped else "no answer"
    return Audit("Python", len(names), tuple(vulnerable), tuple(silent), why if silent else "")


def audit_npm() -> Audit:
    """npm's own audit over contracts/package-lock.json."""
    folder = ROOT / "contracts"
    lock = json.loads((folder / "package-lock.json").read_text())
    names = [path.removeprefix("node_modules/") for path in lock["packages"] if path]
    out, err = _run(["npm", "audit", "--json", "--package-lock-only"], folder)
    return read_npm_audit(out, err, names)


def read_npm_audit(out: str, err: str, names: Sequence[str]) -> Audit:
    """What npm's JSON says; it answers for all packages or for none."""
    try:
        found = json.loads(out)["vulnerabilities"]
    except (ValueError, KeyError):
        lines = [line.removeprefix("npm error ") for line in err.splitlines() if "audit" in line]
        why = _last_line("\n".join(lines), _last_line(err, "no answer"))
        return Audit("npm", len(names), (), tuple(names), why)
    vulnerable = tuple(f"{name}: {row['severity']}" for name, row in sorted(found.items()))
    return Audit("npm", len(names), vulnerable, ())


def sentences(audit: Audit) -> list[str]:
    """Lines that a reader cannot take for success where there is none."""
    lines = []
    if audit.vulnerable:
        lines.append(f"VULNERABLE ({audit.ecosystem}): {'; '.join(audit.vulnerable)}")
    if audit.not_audited:
        some = f"{len(audit.not_audited)} of {audit.packages} packages"
        which = ", ".join(audit.not_audited)
        lines.append(f"NOT AUDITED ({audit.ecosystem}): {some}, {audit.why_not}: {which}")
    return lines or [
        f"audited ({audit.ecosystem}): {audit.packages} packages, no known vulnerability"
    ]


def main() -> int:
    """1 where a vulnerability is known; 0 otherwise, which is no claim that all were audited."""
    audits = (audit_python(), audit_npm())
    text = "".join(line + "\n" for audit in audits for line in sentences(audit))
    VERDICT.parent.mkdir(parents=True, exist_ok=True)
    VERDICT.write_text(text)
    print(text, end="")
    return 1 if any(audit.vulnerable for audit in audits) else 0


if __name__ == "__main__":
    sys.exit(main())
