"""A host's fields as text over plain HTTP, as an exporter shows them; what Prometheus scrapes.

Of 8 GPUs, per GPU what a health and a use leaf hold, and the largest sample of the gauges of use;
or of these only so many as make 240 fields, the page that the budget was set with. Values wander
from scrape to scrape, as they would.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from assay_core.leaves import Content, Counter, Gauge, Reason
from tests.fakes.host import FakeGpu

GPUS: Final = 8
FIELDS: Final = 240
"""Of the smaller page."""
POLLS: Final = 60
PAGES: Final = 64
"""How many pages are made before the first scrape, to be shown in turn."""


class Exporter:
    """Serves the same host under any number of paths, and counts the scrapes."""

    def __init__(self, pages: tuple[bytes, ...]) -> None:
        self._pages: Final = pages
        self._lock: Final = threading.Lock()
        self._scrapes = 0
        self.fields: Final = count(pages[0])
        self.port = 0

    @property
    def scrapes(self) -> int:
        """Number of scrapes so far."""
        return self._scrapes

    def page(self) -> bytes:
        """The next page."""
        with self._lock:
            self._scrapes += 1
            return self._pages[self._scrapes % len(self._pages)]


def pages(fields: int | None) -> tuple[bytes, ...]:
    """Pages of so many fields, or of all that there are, in Prometheus's text format."""
    chance = random.Random(11)
    gpus = [FakeGpu(chance.randbytes(16), chance) for _ in range(GPUS)]
    return tuple(_page(gpus, fields) for _ in range(PAGES))


@contextmanager
def serving(fields: int | None) -> Iterator[Exporter]:
    """The exporter on a free loopback port, in threads of this process."""
    exporter = Exporter(pages(fields))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # scrapes keep their connection, as Prometheus wants

        def do_GET(self) -> None:
            body = exporter.page()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: 50 scrapes a second are no news."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        exporter.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield exporter
        finally:
            server.shutdown()
            thread.join()


def _page(gpus: list[FakeGpu], fields: int | None) -> bytes:
    families: dict[str, list[str]] = {}
    each = None if fields is None else fields // len(gpus)
    for index, gpu in enumerate(gpus):
        labels = f'gpu="{index}",uuid="GPU-{gpu.uuid.hex()}",model="NVIDIA H100 80GB HBM3"'
        shown = [one for content in (gpu.use(), gpu.health(POLLS)) for one in _samples(content)]
        for name, value in shown[:each]:
            families.setdefault(name, []).append(f"{name}{{{labels}}} {value}")
    lines = []
    for name, samples in families.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP {name} As in window.proto.", f"# TYPE {name} {kind}", *samples]
    found = sum(len(samples) for samples in families.values())
    if fields is not None and found != fields:
        raise ValueError(f"{found} fields, not {fields}: the schema has changed")
    return ("\n".join(lines) + "\n").encode()


def count(page: bytes) -> int:
    """Number of samples on a page."""
    return sum(not line.startswith(b"#") for line in page.splitlines())


def _samples(content: Content) -> Iterator[tuple[str, int]]:
    group = content.group.value
    for name, value in content.values.items():
        if isinstance(value, Gauge):
            yield f"gpu_{name}", value.mean
            if group == "use":
                yield f"gpu_{name}_max", value.max
        elif isinstance(value, Counter):
            yield f"gpu_{name}_total", value.total
        elif isinstance(value, int) and not isinstance(value, Reason):
            yield f"gpu_{name}", value
