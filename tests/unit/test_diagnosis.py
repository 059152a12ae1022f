"""Each thing that `assay-agent check` may find: its code, how it stands, and a fix that helps."""

import ast
import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from assay_agent import host, spool_file
from assay_agent.cli import installation
from assay_agent.config import AgentConfig, MetricsConfig, SourceConfig, TlsConfig
from assay_agent.machine.packages import NONE
from assay_agent.telemetry import diagnosis, diagnosis_gpus, diagnosis_host
from assay_agent.telemetry.diagnosis import Finding, State
from assay_agent.telemetry.reading import GpuReading, Happening, Poll, Sample
from assay_agent.window import Aggregator
from assay_core.header import CloseReason, Source
from assay_core.leaves import DriverState, EventKind, Reason
from tests.fakes import readings, spools
from tests.fakes.machine import FakeMachine, shim_address

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    *sorted((ROOT / "agent/assay_agent/telemetry").glob("diagnosis*.py")),
    ROOT / "agent/assay_agent/cli/check.py",
    ROOT / "agent/assay_agent/cli/installation.py",
]
LIBRARY = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.590.48.01"


CODES = {
    "agent-silent",
    "bus-agrees",
    "bus-unreadable",
    "bus-without-driver",
    "certificate-due",
    "certificate-early",
    "certificate-expired",
    "certificate-missing",
    "certificate-valid",
    "clock-agrees",
    "clock-ahead",
    "clock-behind",
    "clock-far-off",
    "clock-synchronised",
    "clock-unknown",
    "clock-unsynchronised",
    "confidential-computing",
    "confidential-computing-devtools",
    "configuration-read",
    "configuration-refused",
    "container-with-some",
    "container-without-devices",
    "device-files-denied",
    "device-files-missing",
    "device-files-open",
    "driver-answers",
    "driver-does-not-start",
    "driver-no-permission",
    "driver-not-loaded",
    "driver-unresponsive",
    "ecc-off",
    "enrolled",
    "evidence-by-corelib",
    "evidence-given",
    "evidence-impossible",
    "evidence-needs-mode",
    "evidence-off",
    "fields-denied",
    "gpus-asleep",
    "gpus-hidden",
    "gpus-none",
    "gpus-passed-through",
    "gpus-phantom",
    "gpus-read",
    "gpus-uncounted",
    "gpus-unread",
    "incident-open",
    "incidents-more",
    "incidents-none",
    "inforom-corrupted",
    "kernel-log-journal",
    "kernel-log-kmsg",
    "kernel-log-off",
    "kernel-log-unreadable",
    "library-from-no-package",
    "library-from-package",
    "library-loads",
    "library-missing",
    "library-package-unknown",
    "library-replaced",
    "looked-as-root",
    "metrics-off",
    "metrics-ready",
    "metrics-refused",
    "mig-on",
    "not-enrolled",
    "nouveau-bound",
    "persistence-off",
    "recovery-asked",
    "remap-failed",
    "remap-pending",
    "source-not-real",
    "source-refused",
    "spool-unreadable",
    "sram-needs-root",
    "state-denied",
    "state-missing",
    "state-of-root",
    "state-open",
    "state-ready",
    "state-small",
    "textfile-denied",
    "uplink-connected",
    "uplink-connecting",
    "uplink-needs-person",
    "valuer-reached",
    "valuer-refuses",
    "valuer-unknown",
    "valuer-unreachable",
    "version-mismatch",
    "versions-agree",
}


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path / "root").gpus(4)


def gpu(slot: int, **values: Sample) -> GpuReading:
    address = f"0000{shim_address(slot).upper()}"
    return GpuReading(bytes([slot]) * 16, {"name": "x", "pci_bus_id": address, **values})


def poll(*gpus: GpuReading, why: Reason | None = None, **host: Sample) -> Poll:
    said: dict[str, Sample] = {
        "driver_version": "590.48.01",
        "nvml_version": "13.590.48.01",
        "gpu_count": len(gpus),
        "kernel_module_version": "590.48.01",
    }
    state = DriverState.RUNNING
    if why is not None:
        said |= dict.fromkeys(("driver_version", "nvml_version", "gpu_count"), why)
        state = DriverState.ABSENT
    return Poll(0, 0, state, said | host, 0, gpus, ())


def by_code(findings: Iterable[Finding | None]) -> dict[str, Finding]:
    return {finding.code: finding for finding in findings if finding is not None}


def made() -> list[tuple[str, str, ast.Call]]:
    """Every finding that the program makes: its file, its code and the call."""
    return [
        (path.name, _text(node.args[1]), node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Finding"
    ]


def _text(node: ast.expr) -> str:
    """A text that stands in the program; "" for one that is put together."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_each_finding_has_a_code_of_its_own() -> None:
    """Machines go by the codes: one that is taken away or means two things breaks them."""
    codes = [code for _, code, _ in made() if code]
    codes += [code for code, *_ in diagnosis_gpus._CONDITIONS]
    assert sorted(set(codes)) == sorted(codes)
    assert set(codes) == CODES


def test_whatever_is_wrong_has_a_fix() -> None:
    for file, code, call in made():
        state = ast.unparse(call.args[0])
        if state in ("State.FAILED", "State.WARNING") and code != "clock-unknown":
            assert len(call.args) == 5, f"{file}: {code} says not what to do"


def test_a_library_of_another_version_than_the_module() -> None:
    assert by_code([diagnosis.versions(poll())]).keys() == {"versions-agree"}
    finding = diagnosis.versions(poll(kernel_module_version="580.95.05"))
    assert finding is not None
    assert (finding.code, finding.state) == ("version-mismatch", State.FAILED)
    assert "580.95.05" in finding.what
    assert "590.48.01" in finding.what
    assert diagnosis.versions(poll(kernel_module_version=Reason.DRIVER_ABSENT)) is None


@pytest.mark.parametrize(
    ("package", "digest", "code"),
    [
        ("libnvidia-compute-590 590.48.01-1", "ab", "library-from-package"),
        (NONE, "ab", "library-from-no-package"),
        (Reason.NOT_SUPPORTED, "ab", "library-package-unknown"),
        (Reason.NOT_SAMPLED, Reason.NOT_SAMPLED, "library-replaced"),
    ],
)
def test_where_a_library_is_from(package: Sample, digest: Sample, code: str) -> None:
    finding = diagnosis.provenance(
        poll(library_path=LIBRARY, library_sha256=digest, library_package=package)
    )
    assert finding is not None
    assert (finding.code, LIBRARY in finding.what) == (code, True)
    assert diagnosis.provenance(poll(library_path=Reason.DRIVER_ABSENT)) is None


def seen(machine: FakeMachine, told: Poll, **environ: str) -> dict[str, Finding]:
    return by_code(diagnosis_host.bus(told, machine.root, machine.root / "dev", environ))


def all_gpus(count: int = 4) -> tuple[GpuReading, ...]:
    return tuple(gpu(slot) for slot in range(count))


def test_a_bus_that_agrees(machine: FakeMachine) -> None:
    found = seen(machine, poll(*all_gpus(), hidden_gpus=(), phantom_gpus=()))
    assert found.keys() == {"bus-agrees"}
    assert found["bus-agrees"].what == "4 GPUs, as the driver says"


def test_hidden_and_phantom_gpus(machine: FakeMachine) -> None:
    hidden = tuple(shim_address(slot) for slot in range(6))
    found = seen(machine, poll(*all_gpus(), hidden_gpus=hidden, phantom_gpus=("0000:fe:00.0",)))
    assert found.keys() == {"gpus-hidden", "gpus-phantom"}
    assert "and 2 more" in found["gpus-hidden"].what
    assert "0000:fe:00.0" in found["gpus-phantom"].what
    assert all(finding.state is State.FAILED for finding in found.values())


def test_gpus_of_guests_and_of_other_drivers(machine: FakeMachine) -> None:
    machine.bind(2, "vfio-pci").bind(3, "nouveau")
    found = seen(machine, poll(why=Reason.DRIVER_ABSENT))
    assert shim_address(2) in found["gpus-passed-through"].what
    assert found["gpus-passed-through"].state is State.NOTE
    assert shim_address(3) in found["nouveau-bound"].what
    assert found["bus-without-driver"].what == "4 NVIDIA GPUs are on it"


def test_a_container_without_devices_and_one_with_some(machine: FakeMachine) -> None:
    found = seen(machine, poll(why=Reason.DRIVER_ABSENT))
    assert "daemon-reload" in found["container-without-devices"].fix
    for slot in range(2):
        machine.device_file(slot, slot)
    found = seen(machine, poll(*all_gpus(2), hidden_gpus=(), phantom_gpus=()))
    assert found["container-with-some"].what.startswith("2 of the host's 4")


def test_a_gpu_that_is_lost_or_asleep_is_not_another_containers(machine: FakeMachine) -> None:
    machine.device_file(0, 0)
    for count in (4, Reason.ASLEEP):
        told = poll(*all_gpus(1), gpu_count=count, hidden_gpus=(), phantom_gpus=())
        found = seen(machine, told)
        assert "container-with-some" not in found


def test_a_guests_gpu_is_not_among_those_that_the_driver_says(machine: FakeMachine) -> None:
    machine.bind(3, "vfio-pci")
    found = seen(machine, poll(*all_gpus(3), hidden_gpus=(), phantom_gpus=()))
    assert found["bus-agrees"].what == "3 GPUs, as the driver says"


def test_where_the_bus_cannot_be_seen(tmp_path: Path) -> None:
    found = by_code(diagnosis_host.bus(poll(), tmp_path, tmp_path, {}))
    assert found.keys() == {"bus-unreadable"}


@pytest.mark.parametrize(
    ("origin", "settings", "code"),
    [
        ("journal", SourceConfig(), "kernel-log-journal"),
        ("kmsg", SourceConfig(), "kernel-log-kmsg"),
        ("none", SourceConfig(kernel_log="off"), "kernel-log-off"),
        ("none", SourceConfig(), "kernel-log-unreadable"),
    ],
)
def test_the_kernels_log(tmp_path: Path, origin: str, settings: SourceConfig, code: str) -> None:
    settings = SourceConfig(host_root=str(tmp_path), kernel_log=settings.kernel_log)
    finding = diagnosis_host.kernel_log(poll(kernel_log=origin), settings)
    assert finding.code == code
    if code == "kernel-log-unreadable":
        assert "there is no journal here" in finding.what
        for way in ("systemd-journal", "adm", "CAP_SYSLOG"):
            assert way in finding.fix


@pytest.mark.parametrize(
    ("values", "code", "state"),
    [
        ({"recovery_action": 2}, "recovery-asked", State.WARNING),
        ({"remap_pending": 1}, "remap-pending", State.WARNING),
        ({"remap_failed": 1}, "remap-failed", State.WARNING),
        ({"inforom_valid": 0}, "inforom-corrupted", State.WARNING),
        ({"persistence_mode": 0}, "persistence-off", State.WARNING),
        ({"ecc_enabled": 0}, "ecc-off", State.WARNING),
        ({"mig_mode": 1}, "mig-on", State.NOTE),
        (
            {"ecc_sram_corrected": Reason.NO_PERMISSION},
            "sram-needs-root",
            State.NOTE,
        ),
    ],
)
def test_what_is_worth_knowing_of_a_gpu(values: dict[str, Sample], code: str, state: State) -> None:
    found = by_code(diagnosis_gpus.conditions(poll(gpu(0), gpu(1, **values))))
    assert found.keys() == {code}
    assert found[code].state is state
    if code != "sram-needs-root":
        assert f"0000{shim_address(1).upper()}" in found[code].what
    every = by_code(diagnosis_gpus.conditions(poll(gpu(0, **values), gpu(1, **values))))
    assert every.keys() == {code}


def test_reasons_are_no_values() -> None:
    """NOT_SUPPORTED is 1 and so is "pending": one must never be taken for the other."""
    fields = ("remap_pending", "remap_failed", "inforom_valid", "mig_mode", "recovery_action")
    for reason in Reason:
        values = dict.fromkeys((*fields, "persistence_mode", "ecc_enabled"), reason)
        found = by_code(diagnosis_gpus.conditions(poll(gpu(0, **values), cc_feature=reason)))
        assert found.keys() <= {"sram-needs-root"}
    well = dict.fromkeys(("remap_pending", "remap_failed", "recovery_action", "mig_mode"), 0)
    well |= dict.fromkeys(("inforom_valid", "persistence_mode", "ecc_enabled"), 1)
    assert by_code(diagnosis_gpus.conditions(poll(gpu(0, **well)))) == {}


def test_an_action_that_nobody_knows_asks_for_service() -> None:
    (finding,) = diagnosis_gpus.conditions(poll(gpu(0, recovery_action=77)))
    assert "(recovery action 77)" in finding.what
    assert finding.fix.startswith("service")


def test_confidential_computing() -> None:
    on = by_code(diagnosis_gpus.conditions(poll(gpu(0), cc_feature=1, cc_devtools=0)))
    assert on.keys() == {"confidential-computing"}
    open_ = by_code(diagnosis_gpus.conditions(poll(gpu(0), cc_feature=1, cc_devtools=1)))
    assert open_.keys() == {"confidential-computing-devtools"}


def test_gpus_that_sleep_are_left_to_sleep() -> None:
    asleep = GpuReading(b"a" * 16, {"name": Reason.ASLEEP, "tenancy": 1})
    some = diagnosis_gpus.gpus(poll(gpu(0), asleep))
    assert (some.state, some.what) == (State.OK, "1 read, 1 asleep")
    every = poll(gpu_count=Reason.ASLEEP)
    assert diagnosis_gpus.gpus(every).code == "gpus-asleep"


def test_a_gpu_with_a_tenancy_alone_was_not_read() -> None:
    lost = GpuReading(b"a" * 16, {"name": Reason.GPU_LOST, "tenancy": 1})
    assert diagnosis_gpus.gpus(poll(lost)).code == "gpus-unread"


def test_a_state_directory_of_root(tmp_path: Path) -> None:
    """Any user that is there will do for the agent's."""
    settings = AgentConfig(state_dir=str(tmp_path))
    tmp_path.chmod(0o700)
    if os.geteuid() == 0:
        assert installation.state_directory(settings, "nobody").code == "state-of-root"
        found = installation.user("nobody")
        assert found is not None
        assert "sudo -u nobody" in found.fix
    else:
        assert installation.user("nobody") is None
    small = AgentConfig(state_dir=str(tmp_path))
    assert installation.state_directory(small, "no-such-user").code in (
        "state-ready",
        "state-small",
    )


def test_the_port(tmp_path: Path) -> None:
    def code(settings: MetricsConfig) -> str:
        return installation.metrics(AgentConfig(metrics=settings)).code

    assert code(MetricsConfig()) == "metrics-ready"
    assert code(MetricsConfig(listen=None)) == "metrics-off"
    assert code(MetricsConfig(listen="0.0.0.0:9464")) == "metrics-refused"
    tls = TlsConfig(certificate=str(tmp_path / "none.pem"), key=str(tmp_path / "none.key"))
    assert code(MetricsConfig(listen="0.0.0.0:9464", tls=tls)) == "metrics-refused"
    assert code(MetricsConfig(textfile=str(tmp_path / "assay.prom"))) == "metrics-ready"
    assert code(MetricsConfig(textfile=str(tmp_path / "none" / "assay.prom"))) == "textfile-denied"


def test_open_incidents_are_told_with_what_to_do(tmp_path: Path) -> None:
    """From the spool of a host that sealed a window, read beside it."""
    path = spools.create(tmp_path / spool_file.FILE)
    settings = AgentConfig(state_dir=str(tmp_path))
    boot_id = host.boot_id(Source.NVML)
    with contextlib.closing(spools.open_spool(path, boot_id=boot_id)) as spool:
        spools.append(spool)
        assert [one.code for one in installation.incidents(settings)] == ["incidents-none"]
        aggregator = Aggregator(
            spool.known(), begin_utc_ms=readings.START_MS, begin_boottime_ms=readings.BOOT_MS
        )
        first = readings.reading(1, pci_bus_id="00000000:01:00.0")
        subject = first.subject
        aggregator.add(readings.poll(first, readings.reading(2)))
        for code in (13, 79):
            aggregator.happen(Happening(subject, EventKind.XID, code, readings.START_MS + 1))
        draft = aggregator.draft(
            at_utc_ms=readings.START_MS + 5_000,
            at_boottime_ms=readings.BOOT_MS + 5_000,
            close_reason=CloseReason.EVENT,
        )
        spool.append(draft, source=Source.NVML, answered_challenge=b"", now_ms=0)
        fallen, user_error = installation.incidents(settings)
    assert (fallen.code, fallen.state) == ("incident-open", State.WARNING)
    assert "Xid 79" in fallen.what
    assert "(serial S001)" in fallen.what
    assert "GPU 0000:01:00.0" in fallen.what  # as `assay-agent read --gpu` takes it
    assert fallen.what.endswith(", seen once")
    assert fallen.fix
    assert user_error.state is State.NOTE
    assert "Xid 13" in user_error.what


def test_a_host_that_has_sealed_nothing_has_no_incidents(tmp_path: Path) -> None:
    assert installation.incidents(AgentConfig(state_dir=str(tmp_path))) == []
    (tmp_path / "spool.db").write_bytes(b"not a database" * 100)
    (finding,) = installation.incidents(AgentConfig(state_dir=str(tmp_path)))
    assert finding.code == "spool-unreadable"
