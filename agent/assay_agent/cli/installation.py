"""What `assay-agent check` finds of the agent's own installation: its user, state and port."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from assay_agent import host, spool, spool_file
from assay_agent.config import AgentConfig
from assay_agent.known import Known
from assay_agent.metrics.server import Server
from assay_agent.telemetry.diagnosis import Finding, State
from assay_agent.telemetry.fields import uuid_of
from assay_core.errors import AssayError
from assay_core.header import Source
from assay_core.health import Record, rule_for
from assay_core.instants import format_instant
from assay_core.leaves import HOST, Group, IncidentKind, Severity

USER: Final = "assay-agent"
"""The unit's user; see systemd/assay.sysusers.conf."""
_SHOWN_MAX: Final = 20


def user(name: str = USER) -> Finding | None:
    """Whether this looks with the eyes of the agent's user; None where it does, or none is made."""
    uid = _uid(name)
    if uid is None or os.geteuid() != 0:
        return None
    return Finding(
        State.NOTE,
        "looked-as-root",
        "user",
        f"this looked as root, who may more than {name}",
        f"sudo -u {name} assay-agent check says what the agent may",
    )


def state_directory(settings: AgentConfig, name: str = USER) -> Finding:
    """Whether windows can be kept until the valuer has them."""
    path, about = Path(settings.state_dir), "state directory"
    fix = f"install -d -m 0700 -o {name} {path}; under systemd, StateDirectory= makes it"
    if not path.is_dir():
        return Finding(State.FAILED, "state-missing", about, f"{path} does not exist", fix)
    if not os.access(path, os.W_OK | os.X_OK):
        return Finding(
            State.FAILED, "state-denied", about, f"this user may not write to {path}", fix
        )
    state = path.stat()
    if state.st_uid == 0 and _uid(name) not in (None, 0):
        return Finding(
            State.FAILED,
            "state-of-root",
            about,
            f"{path} belongs to root: {name} may not write to it",
            f"chown -R {name}: {path}; enrol as that user (sudo -u {name} assay-agent enroll …)",
        )
    if state.st_mode & 0o077:
        return Finding(
            State.FAILED,
            "state-open",
            about,
            f"{path} is open to other users",
            f"chmod 0700 {path}",
        )
    free = shutil.disk_usage(path).free
    room = f"{free // 1024**2} MiB free under {path}"
    if free < settings.spool.bytes_max:
        return Finding(
            State.WARNING,
            "state-small",
            about,
            f"{room}, less than the spool may grow to",
            f"make room, or lower spool.bytes_max from {settings.spool.bytes_max}: a spool that is "
            "full drops its oldest windows and says so",
        )
    return Finding(State.OK, "state-ready", about, room)


def metrics(settings: AgentConfig) -> Finding:
    """Whether the port and the textfile for Prometheus may be had as configured. Makes neither."""
    about, listen = "metrics", settings.metrics.listen
    textfile = settings.metrics.textfile
    if textfile is not None and not os.access(Path(textfile).parent, os.W_OK | os.X_OK):
        return Finding(
            State.FAILED,
            "textfile-denied",
            about,
            f"metrics.textfile: this user may not write to {Path(textfile).parent}",
            "make the folder and give it to the agent's user; under systemd, ReadWritePaths= too",
        )
    if listen is None:
        return Finding(State.OK, "metrics-off", about, "no port is opened")
    try:
        Server(settings.metrics, _no_pages)
    except AssayError as error:
        return Finding(
            State.FAILED,
            "metrics-refused",
            about,
            str(error),
            "correct that line; until then the agent does not start",
        )
    how = "over TLS" if settings.metrics.tls else "on loopback"
    return Finding(State.OK, "metrics-ready", about, f"{listen}, {how}")


def incidents(settings: AgentConfig) -> list[Finding]:
    """What the agent's own reading of the rules holds against this host's GPUs, the worst first."""
    path, about = Path(settings.state_dir) / spool_file.FILE, "incidents"
    if not os.access(path, os.R_OK):
        return []  # no window was ever sealed here, or the state directory says why not
    try:
        known = spool.known(path, host.boot_id(Source.NVML))
    except AssayError as error:
        return [Finding(State.FAILED, "spool-unreadable", about, str(error), "see the agent's log")]
    found = sorted(
        ((record, one.subject) for one in known for record in one.health.open),
        key=lambda pair: (-pair[0].severity, pair[0].begin_ms),
    )
    if not found:
        gpus = sum(one.subject != HOST for one in known)
        return [Finding(State.OK, "incidents-none", about, f"none open on {gpus} GPUs")]
    named = {one.subject: _name(one) for one in known}
    shown = [_incident(record, named[subject]) for record, subject in found[:_SHOWN_MAX]]
    if len(found) > _SHOWN_MAX:
        more = f"{len(found) - _SHOWN_MAX} more"
        shown.append(Finding(State.WARNING, "incidents-more", about, more, "see the dashboard"))
    return shown


def _name(one: Known) -> str:
    """A GPU as `assay-agent read --gpu` takes it, with the serial on its board."""
    if one.subject == HOST:
        return "the host"
    identity = one.told.get(Group.IDENTITY)
    serial = None if identity is None else identity.values.get("serial")
    board = f" (serial {serial})" if isinstance(serial, str) else ""
    address = one.health.place.address
    return f"{f'GPU {address}' if address else uuid_of(one.subject)}{board}"


def _incident(record: Record, where: str) -> Finding:
    rule = rule_for(record.kind, record.code)
    what = f"Xid {record.code}" if record.kind is IncidentKind.XID else record.kind.name.lower()
    times = "once" if record.count == 1 else f"{record.count} times"
    bad = record.severity is not Severity.USER_ERROR
    return Finding(
        State.WARNING if bad else State.NOTE,
        "incident-open",
        "incidents",
        f"{where}: {what.replace('_', ' ')}, {rule.meaning}: "
        f"{record.severity.label.replace('_', ' ')}, since {format_instant(record.begin_ms)}, "
        f"seen {times}",
        rule.action,
    )


def _no_pages(*, openmetrics: bool) -> Iterator[str]:  # noqa: ARG001  # what a page is asked
    return iter(())


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None
