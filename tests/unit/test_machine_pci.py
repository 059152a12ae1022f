"""The PCI bus as files, and what is a GPU on it."""

import os
from pathlib import Path

import pytest

from assay_agent.machine.pci import GPUS_MAX, Bus, Given, PciBus, hidden, withheld
from assay_core.leaves import Reason, Tenancy
from assay_core.pci import pci_address
from tests.fakes.machine import FakeMachine, shim_address


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path / "root")


def look(machine: FakeMachine) -> Bus:
    found = PciBus(machine.root).look()
    assert not isinstance(found, Reason)
    return found


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("00000000:1B:00.0", "0000:1b:00.0"),
        ("0000:18:00", "0000:18:00.0"),
        ("00010000:E1:00.0", "10000:e1:00.0"),
        ("10000:e1:00.0", "10000:e1:00.0"),
        ("0000:18:00.9", None),
        ("0000:18:00.0 ", None),
        ("0000:18:00.0\n", None),
        ("0000:1８:00.0", None),
        ("18:00.0", None),
        ("0000:18:00.", None),
        ("0000:18.00.0", None),
        ("", None),
    ],
)
def test_addresses_of_every_hand(written: str, meant: str | None) -> None:
    assert pci_address(written) == meant


def test_only_gpus_are_gpus(machine: FakeMachine) -> None:
    machine.gpus(2)
    machine.add("0000:02:00.0", kind="0x030000")  # a graphics card, and its audio function
    machine.add("0000:02:00.1", driver="snd_hda_intel", kind="0x040300")
    machine.add("0000:05:00.0", driver="nvidia-nvswitch", kind="0x068000")
    machine.function("0000:06:00.0", vendor="0x1002", kind="0x030200")
    virtual = machine.function("0000:1b:00.4", vendor="0x10de", kind="0x030200")
    (virtual / "physfn").symlink_to(machine.devices / shim_address(0))
    assert list(look(machine)) == ["0000:02:00.0", shim_address(0), shim_address(1)]


def test_a_virtual_function_is_a_gpu_where_it_is_given_to(machine: FakeMachine) -> None:
    """In a guest it has no `physfn`: it is the guest's GPU."""
    machine.add("0000:1b:00.4")
    assert list(look(machine)) == ["0000:1b:00.4"]


@pytest.mark.parametrize(
    ("driver", "who"),
    [
        ("nvidia", Tenancy.HOST),
        ("vfio-pci", Tenancy.PASSED_THROUGH),
        ("nvgrace_gpu_vfio_pci", Tenancy.PASSED_THROUGH),
        ("pciback", Tenancy.PASSED_THROUGH),
        ("nouveau", Tenancy.UNBOUND),
        ("", Tenancy.UNBOUND),
    ],
)
def test_who_has_a_gpu(machine: FakeMachine, driver: str, who: Tenancy) -> None:
    machine.add("0000:18:00.0", driver=driver)
    gpu = look(machine)["0000:18:00.0"]
    assert (gpu.driver, gpu.tenancy) == (driver, who)


def test_a_bus_is_looked_at_anew_and_read_once(machine: FakeMachine) -> None:
    machine.gpus(2)
    bus = PciBus(machine.root)
    assert len(bus.look()) == 2  # type: ignore[arg-type]  # a reason has no length, and fails
    machine.bind(0, "vfio-pci").remove(1)
    found = bus.look()
    assert not isinstance(found, Reason)
    assert {gpu.tenancy for gpu in found.values()} == {Tenancy.PASSED_THROUGH}
    machine.function(shim_address(1), vendor="0x15b3", kind="0x020000")  # another card in its slot
    assert list(bus.look()) == [shim_address(0)]  # type: ignore[arg-type]  # as above


def test_a_card_that_was_changed_between_two_looks(machine: FakeMachine) -> None:
    machine.gpus(1)
    bus = PciBus(machine.root)
    assert list(bus.look()) == [shim_address(0)]  # type: ignore[arg-type]  # as above
    # Made beside the old one: so surely another inode, as each new entry of sysfs has.
    other = machine.function("other", vendor="0x15b3", kind="0x020000")
    machine.remove(0)
    other.rename(machine.devices / shim_address(0))
    assert list(bus.look()) == []  # type: ignore[arg-type]  # as above


def test_no_more_than_a_host_could_hold(machine: FakeMachine) -> None:
    for number in range(GPUS_MAX + 3):
        machine.add(f"0000:{number + 1:02x}:00.0")
    assert len(look(machine)) == GPUS_MAX


def test_what_is_not_there_is_not_compared(tmp_path: Path, machine: FakeMachine) -> None:
    assert PciBus(tmp_path / "nothing").look() is Reason.NOT_SUPPORTED
    (machine.root / "dev/dxg").touch()  # Windows' subsystem: GPUs are on no bus of ours
    assert PciBus(machine.root).look() is Reason.NOT_SUPPORTED


def test_garbage_in_sysfs_is_no_gpu(machine: FakeMachine) -> None:
    (machine.devices / "not an address").mkdir()
    folder = machine.function("0000:07:00.0", vendor="0x10de", kind="0x030200")
    (folder / "class").write_bytes(b"\xff\x00" * 9000)
    loop = machine.function("0000:08:00.0", vendor="0x10de", kind="0x030200")
    (loop / "driver").symlink_to(loop / "driver")
    assert {gpu.driver for gpu in look(machine).values()} == {"driver"}
    assert list(look(machine)) == ["0000:08:00.0"]


def given(machine: FakeMachine, environ: dict[str, str]) -> Given:
    return Given(machine.root, machine.root / "dev", environ)


def test_a_gpu_that_the_driver_does_not_show_is_hidden(machine: FakeMachine) -> None:
    machine.gpus(3).device_file(1, minor=1).device_file(2, minor=2, there=False)
    machine.add("0000:f0:00.0", driver="vfio-pci")
    bus, mine = look(machine), given(machine, {})
    accounted = frozenset({shim_address(0)})
    assert mine.in_container  # another root than /: this looks at the host from a container
    assert hidden(bus, accounted, mine) == (shim_address(1),)
    assert withheld(bus, accounted, mine) == (shim_address(2),)


def test_a_container_may_hide_what_its_driver_tells(machine: FakeMachine) -> None:
    """NVIDIA's container toolkit shows /proc/driver/nvidia/gpus of the given ones alone."""
    machine.gpus(1)
    bus, mine = look(machine), given(machine, {"NVIDIA_VISIBLE_DEVICES": "GPU-1"})
    assert (hidden(bus, frozenset(), mine), len(withheld(bus, frozenset(), mine))) == ((), 1)


def test_a_host_gives_its_agent_everything() -> None:
    environ = {"PATH": os.defpath}
    mine = Given(Path("/"), Path("/dev"), environ)
    # Whether these tests run in a container is not theirs to choose.
    assert mine.in_container or mine("0000:18:00.0")
