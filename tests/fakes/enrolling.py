"""Enrolment in processes that are killed at a chosen step.

Run as a program it reads lines of `state_dir, token file, step` (tab-separated) and answers each
with how the enrolment ended: 0, or minus the signal. A step is a change that it is about to make in
the state directory, counted from 1.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from assay_agent import enroll
from assay_agent.keys import KeyStore

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.chmod", "sqlite3.connect")


class KilledEnrolments:
    """The other end: enrols in a child process, and kills it before a step."""

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def enrol(self, state_dir: Path, token_file: Path, step: int) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{state_dir}\t{token_file}\t{step}\n".encode())
        return int(await self._process.stdout.readline())

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


def _enrol_until(state_dir: str, token_file: str, step: int) -> None:
    left = step

    def watch(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(args[2], int) and args[2] & os.O_ACCMODE
        if (writes or event in _CHANGES) and os.fspath(str(args[0])).startswith(state_dir):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    token = enroll.parse_token(Path(token_file).read_text())
    asyncio.run(enroll.enroll(KeyStore(Path(state_dir)), token, None))


def main() -> None:
    for line in sys.stdin:
        state_dir, token_file, step = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            try:
                _enrol_until(state_dir, token_file, int(step))
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
