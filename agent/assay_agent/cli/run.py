"""`assay-agent run`: the service."""

from __future__ import annotations

import argparse

from assay_agent import lean

# asyncio takes TLS from Python's own binding of OpenSSL, and hashlib its functions. gRPC and
# cryptography each bring theirs, and this third one can be done without: 5 MiB of every host.
with lean.without("ssl", "_hashlib"):
    import asyncio
    import hmac  # noqa: F401 - for those who take from it below, and from hashlib
with lean.bare():
    import msgspec  # noqa: F401 - the same

from assay_agent import config, host, log, rotation, spool_file, switch
from assay_agent.config import AgentConfig
from assay_agent.host import Clock
from assay_agent.keys import KeyStore
from assay_agent.metrics import AgentMetrics
from assay_agent.service import Service
from assay_agent.spool import Chain, Spool
from assay_agent.telemetry.sources import make_source
from assay_agent.uplink.uplink import Pace


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    commands.add_parser(
        "run",
        help="read the GPUs, seal windows and send them, until SIGTERM",
        description="The agent itself, in the foreground; systemd runs it as assay-agent.service. "
        "Logs to standard error, JSON unless it is a terminal.",
        epilog="example: assay-agent run --config /etc/assay-agent/agent.yaml",
    )


def run(args: argparse.Namespace) -> int:
    """Runs until SIGTERM."""
    settings = config.load(args.config)
    log.to_stderr()
    keys = KeyStore.default(settings)
    keys.prepare()
    with spool_file.locked(keys.state_dir):
        switch.complete(keys)
        rotation.complete(keys)
        asyncio.run(_serve(settings, keys))
    return 0


async def _serve(settings: AgentConfig, keys: KeyStore) -> None:
    clock = Clock()
    enrolled = keys.host()
    source = make_source(settings.source, keys.state_dir)
    spool = Spool(
        keys.state_dir / spool_file.FILE,
        chain=Chain(enrolled.host_id, enrolled.incarnation),
        signer=keys.signer(),
        boot_id=host.boot_id(source.kind),
        bytes_max=settings.spool.bytes_max,
        acknowledged_keep_ms=settings.spool.acknowledged_keep_ms,
        now_ms=clock.utc_ms(),
        previous=keys.previous_signer(),
    )
    try:
        metrics = AgentMetrics(source.kind, settings.metrics)
        await metrics.serve()
        service = Service(settings, keys, source, spool, metrics, clock=clock, pace=Pace())
        await service.run()
    finally:
        spool.close()
