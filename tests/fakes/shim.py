"""The test driver library (tests/nvml_shim) from Python: build it, script it, read what it saw.

    shim = ShimScenario(tmp_path).set_every(load="loaded")
    agent = subprocess.Popen([...], env=shim.env())
    shim.gpu(3).xid(79).lose()

Each change rewrites the scenario file at once and atomically; ``with shim.batch():`` makes several
changes one. Nothing here is a fixture: a test makes what it needs.
"""

import functools
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests" / "nvml_shim"
BUILT = ROOT / "build" / "nvml_shim"

LIBRARY = "libnvidia-ml.so.1"
NVML_ERROR_GPU_IS_LOST = 15
NVML_ERROR_DRIVER_NOT_LOADED = 9
NVML_ERROR_UNKNOWN = 999
EVERY_CALL = "*"

VOLATILE_KEYS = (
    "ecc_dram_corrected_volatile",
    "ecc_dram_uncorrected_volatile",
    "ecc_sram_corrected_volatile",
    "ecc_sram_parity_volatile",
    "ecc_sram_secded_volatile",
    "remapped_rows_pending",
    "recovery_action",
    "pcie_replay_count",
)
"""What is counted since a GPU was last reset, or waits for a reset."""


@functools.cache
def build_shim() -> Path:
    """The folder with an up-to-date libnvidia-ml.so.1: make decides whether to compile."""
    built = subprocess.run(
        ["make", "-s", "-C", str(SOURCES), f"OUT={BUILT}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        message = (
            f"the test driver library does not build (a C compiler is needed):\n{built.stderr}"
        )
        raise RuntimeError(message)
    return BUILT


@dataclass(frozen=True, slots=True)
class ShimCall:
    """One line of the call log. ``outcome``: the NVML return code, or "hang" where one began."""

    function: str
    gpu: int | None
    outcome: str


class ShimSection:
    """One section of the scenario. Every method writes the file and returns the section."""

    def __init__(self, scenario: "ShimScenario", header: str) -> None:
        self.header = header
        self.settings: dict[str, str] = {}
        self.events: list[str] = []
        self._scenario = scenario

    def set(self, **settings: bool | int | str) -> Self:
        """Keys of the section, by name; see tests/nvml_shim/README.md."""
        for key, value in settings.items():
            self._put(key, value)
        return self._changed()

    def unset(self, *keys: str) -> Self:
        for key in keys:
            self.settings.pop(key, None)
        return self._changed()

    def fail(self, function: str = EVERY_CALL, *, code: int) -> Self:
        """Let a call answer an NVML return code; 0 makes it answer again."""
        self._put(f"error.{function}", code)
        return self._changed()

    def delay(self, function: str = EVERY_CALL, *, ms: int) -> Self:
        self._put(f"delay_ms.{function}", ms)
        return self._changed()

    def hang(self, function: str = EVERY_CALL) -> Self:
        """Let a call block until ``release``."""
        self._put(f"hang.{function}", value=True)
        return self._changed()

    def release(self) -> Self:
        """Let everything that hangs because of this section go on."""
        for key in [key for key in self.settings if key.startswith("hang.")]:
            del self.settings[key]
        return self._changed()

    def text(self) -> str:
        lines = [self.header, *(f"{key} = {value}" for key, value in self.settings.items())]
        return "\n".join([*lines, *self.events, ""])

    def _put(self, key: str, value: bool | float | str) -> None:
        self.settings[key] = str(value).lower() if isinstance(value, bool) else str(value)

    def _changed(self) -> Self:
        self._scenario.write()
        return self


def _scoped(kind: str, number: int, scope: int | None) -> str:
    return f"{kind}.{number}" if scope is None else f"{kind}.{number}.{scope}"


class ShimGpu(ShimSection):
    """One GPU, by its slot: the place it keeps while others come and go."""

    def lose(self) -> Self:
        """Fall off the bus: still counted, every call about it answers 15."""
        return self.set(lost=True)

    def unplug(self) -> Self:
        """Vanish: not counted, old handles invalid."""
        return self.set(present=False)

    def restore(self) -> Self:
        """Undo ``lose`` and ``unplug``."""
        return self.unset("lost", "present")

    def reset(self, *, keeps_handles: bool = False) -> Self:
        """Reset the GPU alone: old handles are bad (or not), what counts since then is 0."""
        self._put("resets", int(self.settings.get("resets", "0")) + 1)
        self._put("reset_keeps_handles", int(keeps_handles))
        for key in VOLATILE_KEYS:
            self._put(key, 0)
        return self._changed()

    def cut(self, *instances: tuple[int, int, int]) -> Self:
        """MIG mode with these instances: number, memory in MiB, multiprocessors. None: it is on
        and nothing is cut yet."""
        text = " ".join(":".join(map(str, instance)) for instance in instances)
        return self.set(mig_mode=1, mig_instances=text or "unsupported")

    def make_whole(self) -> Self:
        """MIG mode off."""
        return self.set(mig_mode=0, mig_instances="unsupported")

    def field(self, field_id: int, value: float | str, *, scope: int | None = None) -> Self:
        """A field id's value: of every scope (a link, say) or of one; "nan" is a double."""
        self._put(_scoped("field", field_id, scope), value)
        return self._changed()

    def field_error(self, field_id: int, code: int, *, scope: int | None = None) -> Self:
        self._put(_scoped("field_error", field_id, scope), code)
        return self._changed()

    def field_type(self, field_id: int, value_type: int, *, scope: int | None = None) -> Self:
        """The type that is said to go with a field's value, also one that does not exist."""
        self._put(_scoped("field_type", field_id, scope), value_type)
        return self._changed()

    def metric(self, metric_id: int, value: float | str, *, instance: int | None = None) -> Self:
        """A GPM metric in its own unit, "nan", "inf" or "unsupported": of the GPU and all its
        instances, or of one."""
        self._put(_scoped("metric", metric_id, instance), value)
        return self._changed()

    def xid(self, code: int) -> Self:
        """Send an Xid to whoever has registered for it; nobody later sees it."""
        self.events.append(f"xid = {self._scenario.next_sequence()}:{code}")
        return self._changed()

    def event(self, event_type: int, data: int) -> Self:
        """Any other event, to whoever has registered for its type."""
        self.events.append(f"event = {self._scenario.next_sequence()}:{event_type}:{data}")
        return self._changed()


class ShimScenario:
    """A scenario file and a call log in ``folder``, and the environment that leads to them."""

    def __init__(
        self, folder: Path, *, gpus: int = 8, profile: str = "h100", identity_seed: int = 0
    ) -> None:
        self.path = folder / "shim.ini"
        self.call_log = folder / "shim-calls.log"
        self.host = ShimSection(self, "[host]")
        self.every = ShimGpu(self, "[gpu *]")
        self._gpus: dict[int, ShimGpu] = {}
        self._batching = True
        self._revision = 0
        self._sequence = 0
        self.host.set(gpus=gpus, identity_seed=identity_seed)
        self.every.set(profile=profile)
        self._batching = False
        self.write()

    def gpu(self, slot: int) -> ShimGpu:
        if slot not in self._gpus:
            self._gpus[slot] = ShimGpu(self, f"[gpu {slot}]")
        return self._gpus[slot]

    def set_every(self, **settings: bool | int | str) -> Self:
        self.every.set(**settings)
        return self

    def reload_driver(self) -> Self:
        """The driver was unloaded and loaded again: handles and energy counters are gone."""
        generation = int(self.host.settings.get("driver_generation", "1"))
        self.host.set(driver_generation=generation + 1)
        return self

    def unload_driver(self) -> Self:
        self.host.set(driver_loaded=False)
        return self

    def load_driver(self) -> Self:
        self.host.unset("driver_loaded")
        return self

    def forbid_devices(self) -> Self:
        """What a container sees once `systemctl daemon-reload` took its devices away: every call
        answers Unknown Error, and so does initialising, while the GPUs are on the bus as before."""
        self.host.fail(code=NVML_ERROR_UNKNOWN)
        return self

    def allow_devices(self) -> Self:
        self.host.fail(code=0)
        return self

    def system_event(self, event_type: int, gpu_id: int) -> Self:
        """The driver lets a GPU go (1) or takes one (2)."""
        self.host.events.append(f"system_event = {self.next_sequence()}:{event_type}:{gpu_id}")
        self.write()
        return self

    def fail_init(self, *, code: int = NVML_ERROR_DRIVER_NOT_LOADED, times: int = 0) -> Self:
        """Let initialising fail, the first ``times`` times in each process (0: always)."""
        self.host.set(init_error=code, init_failures=times)
        return self

    def env(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment for a process that is to see this scenario; builds the library."""
        env = dict(os.environ if base is None else base)
        others = env.get("LD_LIBRARY_PATH")
        env["LD_LIBRARY_PATH"] = f"{build_shim()}:{others}" if others else str(build_shim())
        env["ASSAY_SHIM_SCENARIO"] = str(self.path)
        env["ASSAY_SHIM_CALL_LOG"] = str(self.call_log)
        return env

    def env_before_install(self, folder: Path) -> dict[str, str]:
        """The environment of a host with no driver yet, whose library will be put in `folder`."""
        env = self.env()
        env["LD_LIBRARY_PATH"] = str(folder)
        return env

    def install(self, folder: Path) -> None:
        """Put the library there, as installing a driver does; the folder need not be there yet."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LIBRARY).symlink_to(build_shim() / LIBRARY)

    def calls(self, function: str | None = None) -> list[ShimCall]:
        """What has been called so far, oldest first; of one function, if named."""
        if not self.call_log.exists():
            return []
        rows = [line.split() for line in self.call_log.read_text().splitlines()]
        calls = [ShimCall(name, None if gpu == "-" else int(gpu), out) for name, gpu, out in rows]
        return [call for call in calls if function in {None, call.function}]

    def wait_for_call(
        self, function: str, *, outcome: str | None = None, count: int = 1, timeout_s: float = 20
    ) -> list[ShimCall]:
        """Wait until a function was called so often (with an outcome), or raise TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = [call for call in self.calls(function) if outcome in {None, call.outcome}]
            if len(found) >= count:
                return found
            if time.monotonic() > deadline:
                message = f"{function} was not called {count} times with outcome {outcome}"
                raise TimeoutError(message)
            time.sleep(0.02)

    @contextmanager
    def batch(self) -> Iterator[Self]:
        """Several changes, seen by the driver at once."""
        self._batching = True
        try:
            yield self
        finally:
            self._batching = False
        self.write()

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def write(self) -> None:
        """Replace the file. The first line's length differs from the last write's, so that even
        two writes within one tick of the file system's clock are told apart."""
        if self._batching:
            return
        self._revision += 1
        sections = [self.host, self.every, *(self._gpus[slot] for slot in sorted(self._gpus))]
        text = "\n".join(["#" * (1 + self._revision % 64), *(one.text() for one in sections)])
        self.write_text(text)

    def write_text(self, text: str) -> None:
        """Replace the file by any text, also a wrong one."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)
