"""A real Prometheus on loopback, for tests that ask it what it made of a page or a rule."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

EVENTUALLY_S = 90


class Prometheus:
    """One process with a configuration of its own; it keeps its files in `folder`."""

    def __init__(self, program: Path, folder: Path, config: dict) -> None:
        folder.mkdir(exist_ok=True)
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        self.log = folder / "prometheus.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{address}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    program,
                    f"--config.file={file}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={address}",
                ],
                stdout=log,
                stderr=log,
            )

    def query(self, expression: str) -> list[dict]:
        """The vector that an instant query returns; empty as long as it is not up."""
        address = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        try:
            with urllib.request.urlopen(address, timeout=10) as reply:
                return json.load(reply)["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return []
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        except OSError:
            return []

    def eventually(self, expression: str) -> list[dict]:
        """The vector, once it has something in it."""
        deadline_s = time.monotonic() + EVENTUALLY_S
        while not (found := self.query(expression)):
            assert time.monotonic() < deadline_s, f"{expression}: {self.log.read_text()[-2_000:]}"
            time.sleep(0.5)
        return found

    def close(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait(20)
