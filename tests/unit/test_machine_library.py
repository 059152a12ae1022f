"""What is found out about the library behind NVML, and about the kernel's module."""

import asyncio
import ctypes
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from assay_agent.machine.library import Evidence, Library, mapped, module_version
from assay_agent.machine.packages import NONE, owner
from assay_core.leaves import Reason
from tests.fakes.machine import FakeMachine
from tests.fakes.shim import build_shim

PATH = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.590.48.01"


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path / "root")


def maps(folder: Path, *lines: str) -> Path:
    """A /proc with one process, 7."""
    (folder / "7").mkdir(parents=True)
    text = "\n".join(("7f00-7f01 r-xp 00000000 fd:00 11 /usr/bin/python3.11", *lines, ""))
    (folder / "7/maps").write_text(text)
    return folder


def test_the_library_of_a_process(tmp_path: Path) -> None:
    proc = maps(
        tmp_path,
        f"7f10-7f20 r--p 00000000 fd:00 4711                       {PATH}",
        f"7f20-7f30 r-xp 00010000 fd:00 4711                       {PATH}",
        "7f40-7f50 rw-p 00000000 00:00 0                            [heap]",
    )
    found = mapped(7, proc)
    assert not isinstance(found, Reason)
    assert (found.path, found.inode, found.deleted) == (PATH, 4711, False)


def test_a_library_that_was_replaced_under_us(tmp_path: Path) -> None:
    found = mapped(7, maps(tmp_path, f"7f10-7f20 r--p 0 fd:00 4711 {PATH} (deleted)"))
    assert not isinstance(found, Reason)
    assert (found.path, found.deleted) == (PATH, True)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], Reason.NOT_SAMPLED),
        (["7f10-7f20 r--p 0 fd:00 1 /tmp/libnvidia-ml.so.1/x"], Reason.NOT_SAMPLED),
        (["nonsense", "\udcff".encode("utf-8", "surrogateescape").hex()], Reason.NOT_SAMPLED),
        (
            [
                "7f10-7f20 r--p 0 fd:00 1 /a/libnvidia-ml.so.1",
                "7f10-7f20 r--p 0 fd:00 2 /b/libnvidia-ml.so.1",
            ],
            Reason.INVALID_VALUE,
        ),
    ],
)
def test_maps_that_do_not_say(tmp_path: Path, lines: list[str], why: Reason) -> None:
    assert mapped(7, maps(tmp_path, *lines)) is why
    assert mapped(8, tmp_path) is Reason.NOT_SAMPLED


def test_the_library_that_this_process_has(tmp_path: Path, machine: FakeMachine) -> None:
    """A real library, really mapped: the test driver library, which no package brought."""
    own = tmp_path / "libnvidia-ml.so.1"
    shutil.copy(build_shim() / "libnvidia-ml.so.1", own)
    before = mapped("self")
    loaded = ctypes.CDLL(str(own))
    assert loaded
    if isinstance(before, Reason):  # else another test has loaded one, and now there are two
        machine.write("var/lib/dpkg/info/base-files.list", "/.\n/etc\n")
        found = asyncio.run(Library(machine.root).evidence("self"))
        digest = hashlib.sha256(own.read_bytes()).hexdigest()
        assert found == Evidence(str(own), own.stat().st_ino, digest, NONE)
        (tmp_path / "new").write_bytes(b"another library")
        (tmp_path / "new").replace(own)  # an upgrade: what is mapped is not what is there
        found = asyncio.run(Library(machine.root).evidence("self"))
        assert (found.path, found.sha256) == (str(own), Reason.NOT_SAMPLED)
    else:
        assert mapped("self") is Reason.INVALID_VALUE


def test_a_process_that_is_not_there(machine: FakeMachine) -> None:
    found = asyncio.run(Library(machine.root).evidence(2**22 + 1))
    assert set(vars_of(found)) == {Reason.NOT_SAMPLED}


def vars_of(found: Evidence) -> tuple[object, ...]:
    return (found.path, found.inode, found.sha256, found.package)


def owned(machine: FakeMachine, path: str = PATH) -> str | Reason:
    return asyncio.run(owner(machine.root, path))


def test_dpkg_knows_the_package(machine: FakeMachine) -> None:
    for number in range(100):
        machine.write(f"var/lib/dpkg/info/package{number}.list", f"/usr/lib/x{PATH}\n{PATH}.x\n")
    assert owned(machine) == NONE
    machine.write("var/lib/dpkg/info/libnvidia-compute-590:amd64.list", f"/.\n/usr\n{PATH}\n")
    assert owned(machine) == "libnvidia-compute-590 ?"
    machine.write(
        "var/lib/dpkg/status",
        "Package: libnvidia-compute-590-server\nVersion: 1\n\n"
        "Package: libnvidia-compute-590\nStatus: install ok installed\n"
        "Version: 590.48.01-0ubuntu1\n\nPackage: zlib\nVersion: 2\n",
    )
    assert owned(machine) == "libnvidia-compute-590 590.48.01-0ubuntu1"


def test_dpkg_where_lib_is_a_link(machine: FakeMachine) -> None:
    machine.write("var/lib/dpkg/info/p.list", f"/.\n{PATH.removeprefix('/usr')}\n")
    assert owned(machine) == "p ?"


def test_pacman_knows_the_package(machine: FakeMachine) -> None:
    machine.write("var/lib/pacman/local/zlib-1:1.3-1/files", "%FILES%\nusr/\n")
    assert owned(machine) == NONE
    machine.write(
        "var/lib/pacman/local/nvidia-utils-590.48.01-2/files", f"%FILES%\nusr/\n{PATH[1:]}\n"
    )
    assert owned(machine) == "nvidia-utils 590.48.01-2"


def test_nobody_knows(machine: FakeMachine) -> None:
    assert owned(machine) is Reason.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC\n",
            "535.183.01",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  590.48.01  Release Build\n",
            "590.48.01",
        ),
        ("NVRM version: garbage\n", Reason.DRIVER_ABSENT),
        ("", Reason.DRIVER_ABSENT),
        ("Kernel Module  1234567890.1", Reason.DRIVER_ABSENT),
    ],
)
def test_the_kernels_module(machine: FakeMachine, text: str, version: str | Reason) -> None:
    machine.write("proc/driver/nvidia/version", text)
    machine.write("sys/module/nvidia/version", "x\n")
    assert module_version(machine.root) == version


def test_the_module_by_sysfs_alone(machine: FakeMachine) -> None:
    os.unlink(machine.root / "proc/driver/nvidia/version")
    assert module_version(machine.root) == "590.48.01"
