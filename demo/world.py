"""The demo's world: a chain with a hub, a valuer and its loan book, and simulated hosts.

Everything is real but the GPUs and the money: processes of their own, mutual TLS, a ledger on disk,
an EVM behind JSON-RPC. All of it is under build/demo and on loopback.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from assay_agent.telemetry import scenario, simulation
from assay_core.leaves import EventKind, Group
from assay_valuer import config
from assay_valuer.config import paths
from assay_valuer.devchain.accounts import development_keys
from assay_valuer.ledger.read import windows_from
from assay_valuer.oracle.deploy import FEE_CAP_WEI, deploy_hub, register_feed
from assay_valuer.oracle.hub import Hub
from assay_valuer.oracle.report import FeedKey
from assay_valuer.oracle.rpc import JsonRpc
from assay_valuer.oracle.signer import LocalSigner, create_keystore
from assay_valuer.oracle.transaction import Unsigned, market_fees, sign
from assay_valuer.store.database import Database
from demo import market
from demo.simulated_tpm import Maker, SimulatedTpm
from scripts import tools

ROOT: Final = Path(__file__).resolve().parent.parent
TITLE: Final = "0x00000000000000000000000000000000DE400001"
"""Made-up address of the document of title that the demo's loans are against."""
STOP_S: Final = 10.0


class DemoError(Exception):
    """The demo cannot go on; the message says which step failed and where its log is."""


@dataclass(frozen=True, slots=True)
class Site:
    """One simulated host, and the loan its GPUs are pledged to."""

    name: str
    profile: str
    seed: int
    principal_usd: int
    token_id: int
    fault_at_s: int | None = None
    tpm: bool = False

    @property
    def loan_id(self) -> str:
        """The loan's name."""
        return f"loan-{self.name}"

    def scenario(self) -> str:
        """Its scenario file."""
        lines = [
            f"seed: {self.seed}",
            "fleets:",
            f"  - {{profile: {self.profile}, count: 8, load: {{shape: training}}}}",
        ]
        if self.fault_at_s is not None:
            lines += ["faults:", f"  - {{at_s: {self.fault_at_s}, kind: fall_off_bus, gpu: 3}}"]
        return "\n".join(lines) + "\n"


SITES: Final = (
    Site("b200", "b200", 2, 200_000, 2, tpm=True),
    Site("rtx", "rtx-pro-6000", 3, 34_000, 3),
    # Last to start, so that the others have been valued when its GPU falls off the bus.
    Site("h100", "h100", 1, 108_000, 1, fault_at_s=30),
)
CLONE: Final = """\
seed: 2
fleets:
  - {profile: b200, count: 1}
  - {profile: h100, count: 1}
"""
"""A host that shows the first GPU of the B200 site too, and one of its own."""
PRICES: Final = (
    ("H100", "SXM5", 18_000, 22_000, 26_000),
    ("B200", "SXM6", 37_000, 44_000, 50_000),
    ("RTX PRO 6000", "PCIe", 7_200, 8_000, 8_900),
)


@dataclass(frozen=True, slots=True)
class Keys:
    """Keystores that sign reports, the one that pays, and the passphrase of them all."""

    report: Sequence[Path]
    sender: Path
    passphrase: Path


@dataclass(slots=True)
class World:
    """What is running, and where. `close` stops it, by process id."""

    directory: Path
    processes: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)
    began_s: float = field(default_factory=time.monotonic)
    maker: Maker = field(default_factory=lambda: Maker("Demo TPM"))
    tpm: SimulatedTpm | None = None
    """None where the program cannot be had here; then every host is at L0."""

    @property
    def age_s(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self.began_s

    @property
    def valuer_config(self) -> Path:
        """The valuer's configuration file."""
        return self.directory / "valuer.yaml"

    def agent_config(self, site: str) -> Path:
        """An agent's configuration file."""
        return self.directory / site / "agent.yaml"

    def start(self, name: str, *command: str) -> None:
        """Starts a process that lives until `close`; its output goes to NAME.log."""
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own commands
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append((name, process))

    def check(self) -> None:
        """Raises DemoError if a process has ended."""
        for name, process in self.processes:
            if process.poll() is not None:
                log = self.directory / f"{name}.log"
                raise DemoError(
                    f"{name} ended with status {process.returncode}; {log} ends with:\n"
                    + "\n".join(log.read_text(errors="replace").splitlines()[-12:])
                )

    def close(self) -> None:
        """Asks every process to stop, newest first, and makes sure that it has."""
        for _, process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for _, process in reversed(self.processes):
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()  # simulated hosts: none of these is inside a driver
                process.wait()
        if self.tpm is not None:
            self.tpm.stop()


def fresh(directory: Path) -> World:
    """An empty world; what an earlier demo left is removed. Raises DemoError if one is running."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Held until this process ends, however it ends.
    lock = os.open(directory.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DemoError(f"A demo is running in {directory} already; stop it first.") from error
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o700)
    return World(directory)


def tool(name: str) -> str:
    """One of our own commands, from the environment that runs the demo."""
    return str(Path(sys.executable).parent / name)


def run(*command: str, stdin: str | None = None) -> str:
    """Runs one of our commands to its end and returns what it printed. Raises DemoError."""
    done = subprocess.run(  # noqa: S603 - our own commands
        command, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        shown = " ".join([Path(command[0]).name, *command[1:]])
        raise DemoError(f"`{shown}` ended with status {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout


def start_chain(world: World) -> tuple[JsonRpc, str]:
    """The development chain, in a process of its own."""
    port_file = world.directory / "chain.port"
    world.start(
        "chain", sys.executable, "-m", "assay_valuer.devchain", "--port-file", str(port_file)
    )
    wait(world, "the development chain", port_file.exists)
    url = f"http://127.0.0.1:{port_file.read_text().strip()}"
    return JsonRpc(url), url


def set_up_hub(world: World, rpc: JsonRpc) -> tuple[Hub, Keys]:
    """Three report keys of which two must sign, a key that pays, the hub, and a feed a loan."""
    passphrase = world.directory / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text("the demo's passphrase protects nothing\n")
    keystores = [world.directory / f"report-{number}.json" for number in (1, 2, 3)]
    signers = [create_keystore(path, passphrase, iterations=4096) for path in keystores]
    admin = LocalSigner(development_keys()[0])
    payer = world.directory / "sender.json"
    account = create_keystore(payer, passphrase, iterations=4096)
    fund(rpc, admin, account)
    hub = deploy_hub(
        rpc,
        admin,
        admin=admin.address,
        guardian=admin.address,
        signers=signers,
        threshold=2,
        pause=lambda: time.sleep(0.05),
    )
    for site in SITES:
        key = FeedKey(hub.domain.chain_id, TITLE, site.token_id)
        register_feed(hub, admin, key, pause=lambda: time.sleep(0.05))
    return hub, Keys(keystores, payer, passphrase)


def fund(rpc: JsonRpc, admin: LocalSigner, account: str) -> None:
    """Gives the paying account development money."""
    unsigned = Unsigned(
        chain_id=rpc.chain_id(),
        nonce=rpc.nonce(admin.address),
        to=account,
        data=b"",
        gas=21_000,
        fees=market_fees(rpc, FEE_CAP_WEI),
        value_wei=10**18,
    )
    rpc.send_raw(sign(unsigned, admin))


def set_up_valuer(world: World, hub: Hub, url: str, keys: Keys) -> None:
    """The valuer's state, prices and loans; then the valuer itself."""
    feeds = _write_feeds(world)
    settings = {
        "state_dir": str(world.directory / "valuer"),
        "trust_domain": "demo.assay.test",
        "enrolment": {"listen": f"127.0.0.1:{free_port()}"},
        "attestation": {"listen": f"127.0.0.1:{free_port()}"},
        "metrics": {"listen": f"127.0.0.1:{free_port()}"},
        "sources": ["nvml", "simulated"],
        "window_ms": 5_000,
        "tick_s": 1,
        "market": {"feeds": feeds},
        "policy": POLICY | {"evidence": EVIDENCE | {"simulated_tpm_roots": [_root(world)]}},
        "oracle": {
            "enabled": True,
            "development": True,
            "rpc_urls": [url],
            "chain_id": hub.domain.chain_id,
            "hub": hub.domain.hub,
            "report_keystores": [str(path) for path in keys.report],
            "threshold": 2,
            "sender_keystore": str(keys.sender),
            "passphrase_file": str(keys.passphrase),
        },
    }
    world.valuer_config.write_text(json.dumps(settings, indent=1))
    valuer(world, "init")
    prices = world.directory / "prices.csv"
    prices.write_text(_prices())
    valuer(world, "price", "import", str(prices))
    for site in SITES:
        file = world.directory / f"{site.loan_id}.json"
        file.write_text(json.dumps(_loan(site, hub.domain.chain_id), indent=1))
        valuer(world, "loan", "import", str(file))
    world.start("valuer", tool("assay-valuer"), "run", "--config", str(world.valuer_config))


def _write_feeds(world: World) -> list[dict[str, object]]:
    """Two feeds of a made-up market, as files up to today; returns what valuer.yaml says of them."""
    today = datetime.now(UTC).date()
    feeds: list[dict[str, object]] = []
    for name, text in (("rental", market.rental_csv(today)), ("resale", market.resale_csv(today))):
        path = world.directory / f"{name}s.csv"
        path.write_text(text)
        feeds.append({"name": f"demo-{name}s", "market": name, "path": str(path), "every_s": 60})
    return feeds


def valuer(world: World, *command: str) -> str:
    """One `assay-valuer` command."""
    return run(tool("assay-valuer"), *command, "--config", str(world.valuer_config))


def start_tpm(world: World) -> str:
    """A TPM that is a program, with a made-up maker; returns why not, where it cannot be had."""
    found = tools.locate("swtpm")
    if isinstance(found, tools.Missing):
        return found.why
    # A socket's path is short: the demo's folder may be deep.
    world.tpm = SimulatedTpm(found, Path(tempfile.mkdtemp(prefix="assay-demo-")))
    world.tpm.start()
    world.tpm.manufacture(world.maker)
    chain = (world.maker.intermediate, world.maker.root)
    (world.directory / "ek_chain.pem").write_bytes(
        b"".join(one.public_bytes(Encoding.PEM) for one in chain)
    )
    return ""


def _root(world: World) -> str:
    """The SHA-256 of the made-up maker's root, which the policy names."""
    return world.maker.root.fingerprint(SHA256()).hex()


def add_parties(world: World) -> None:
    """Who may sign what becomes of GPUs: the operator, and the lender's two people."""
    for name, role in PARTIES.items():
        public = run(tool("assay-valuer"), "party", "key", str(party_key(world, name))).strip()
        valuer(world, "party", "add", name, "--role", role, "--public", public.splitlines()[-1])


def party_key(world: World, name: str) -> Path:
    """Where a party's key is."""
    return world.directory / f"{name}.key"


def sign_covenant(world: World, site: Site) -> None:
    """Lender and operator sign what the site's loan is measured by, each with a key of their own."""
    written = world.directory / f"{site.loan_id}.covenant.json"
    written.write_text(json.dumps(_covenant(site), indent=1))
    signed = written
    for name in ("lena", "olga"):
        out = world.directory / f"{site.loan_id}.covenant.{name}.json"
        key = str(party_key(world, name))
        run(tool("assay-valuer"), "party", "sign", str(signed), "--key", key, "--out", str(out))
        signed = out
    valuer(world, "covenant", "import", str(signed), "--loan", site.loan_id)


def _covenant(site: Site) -> dict[str, object]:
    """Watched from 75% of OLV, called from 85%, in default from 95%."""
    return {
        "loan": site.loan_id,
        "version": 1,
        "effective_from_ms": time.time_ns() // 1_000_000,
        "parties": {"lender": "lena", "borrower": "olga"},
        "value_source": "automated",
        "premise": "OLV",
        "ltv_basis": "gross",
        "thresholds": {"watch_bps": 7_500, "call_bps": 8_500, "default_bps": 9_500},
        "hysteresis_bps": 100,
        "call_valuations": 2,
        "call_apart_hours": 24,
        "value_cure_hours": 240,
        "reporting_cure_hours": 72,
    }


def serials(site: Site) -> list[str]:
    """What stands on the site's boards."""
    return [gpu.serial for gpu in simulation.gpus_of(scenario.parse(site.scenario(), site.name))]


def replace_gpu(world: World, site: Site, index: int) -> str:
    """The operator proposes that a GPU was replaced, the lender agrees; returns the new serial."""
    gpu = simulation.gpus_of(scenario.parse(site.scenario(), site.name))[index]
    part = str(gpu.identity["board_part_number"])
    new = f"{gpu.serial}-R"
    command = ["asset", "propose", "gpu_replacement", "--serial", gpu.serial, "--part", part]
    command += ["--new-serial", new, "--new-part", part, "--until", "14d"]
    command += ["--why", "RMA: fell off its bus", "--key", str(party_key(world, "olga"))]
    proposed = json.loads(valuer(world, *command, "--json"))
    valuer(world, "asset", "sign", str(proposed["id"]), "--key", str(party_key(world, "lena")))
    return new


def start_agent(
    world: World, name: str, token: str, source: dict[str, str], *, tpm: bool = False
) -> None:
    """Enrols a host with the token and starts its agent."""
    directory = world.directory / name
    directory.mkdir(mode=0o700)
    settings: dict[str, object] = {
        "state_dir": str(directory / "state"),
        "poll_ms": 1_000,
        "window_ms": 5_000,
        "source": source,
        "metrics": {"listen": None},
    }
    if tpm and world.tpm is not None:
        chain = str(world.directory / "ek_chain.pem")
        settings["tpm"] = {"device": str(world.tpm.address), "ek_chain": chain}
    path = world.agent_config(name)
    path.write_text(json.dumps(settings, indent=1))
    run(tool("assay-agent"), "enroll", "--config", str(path), stdin=token)
    world.start(f"agent-{name}", tool("assay-agent"), "run", "--config", str(path))


def start_simulated(world: World, site: Site, token: str) -> None:
    """A simulated host."""
    file = world.directory / f"{site.name}.scenario.yaml"
    file.write_text(site.scenario())
    start_agent(world, site.name, token, {"kind": "simulated", "file": str(file)}, tpm=site.tpm)


def start_clone(world: World, token: str) -> None:
    """A host at L0 that shows a GPU of the site that has a TPM."""
    file = world.directory / "clone.scenario.yaml"
    file.write_text(CLONE)
    start_agent(world, "clone", token, {"kind": "simulated", "file": str(file)})


def has_real_gpus() -> bool:
    """Whether this machine has a driver that shows GPUs."""
    done = subprocess.run(  # noqa: S603 - our own command
        [tool("assay-agent"), "read", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    try:
        return done.returncode == 0 and bool(json.loads(done.stdout)["gpus"])
    except (ValueError, KeyError):
        return False


def wait(world: World, what: str, done: Callable[[], bool], timeout_s: float = 40.0) -> None:
    """Waits until `done`. Raises DemoError when it takes too long or a process ends."""
    end = time.monotonic() + timeout_s
    while not done():
        world.check()
        if time.monotonic() > end:
            raise DemoError(
                f"waited {timeout_s:.0f} s for {what}, in vain; logs are in {world.directory}"
            )
        time.sleep(0.2)


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


POLICY: Final = {
    "name": "demo",
    "credit_simulated": True,
    "silence": {"quiet_after_s": 15, "host_grace_s": 5, "gpu_grace_s": 5},
    "persistence": {"enabled": False},
    "publishing": {
        "interval_min_s": 0,
        "heartbeat_s": 3_600,
        "valid_s": 7_200,
        "expiry_margin_s": 600,
    },
}
"""Not fit for money: shown on screen as the demo's own."""
EVIDENCE: Final = {"tpm_interval_s": 30, "device_interval_s": 3_600, "answer_within_s": 20}
PARTIES: Final = {"olga": "operator", "lena": "lender", "lars": "lender"}
"""Made-up people who sign asset events, each with a key of their own."""


def _prices() -> str:
    rows = ["model,form_factor,condition,low_usd,mid_usd,high_usd,as_of,source"]
    today = datetime.now(UTC).date().isoformat()
    rows += [
        f"{model},{form},used,{low},{mid},{high},{today},made up for the demo"
        for model, form, low, mid, high in PRICES
    ]
    return "\n".join(rows) + "\n"


def _loan(site: Site, chain_id: int) -> dict[str, object]:
    """A loan in the shape of USD.AI's terms: 12% a year over 36 months, originated yesterday."""
    gpus = simulation.gpus_of(scenario.parse(site.scenario(), site.name))
    originated = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    return {
        "id": site.loan_id,
        "chain_id": chain_id,
        "collateral_token": TITLE,
        "collateral_token_ids": [site.token_id],
        "currency": {"token": "0x" + "11" * 20, "decimals": 6},
        "repayment": {"total_duration_days": 1_096, "day": 1, "timezone_offset_seconds": 0},
        "tranches": [
            {
                "lender": "0x" + "22" * 20,
                "amount": site.principal_usd * 10**6,
                "rate": 12 * 10**16 // (365 * 86_400),
            }
        ],
        "originated_at": originated.isoformat(),
        "pledge": [
            {
                "serial": gpu.serial,
                "board_part_number": str(gpu.identity["board_part_number"]),
            }
            for gpu in gpus
        ],
    }


def token(world: World) -> str:
    """A token for the hosts of one site."""
    return valuer(world, "token", "create", "--hosts", "5", "--site", "demo")


def database(world: World) -> Database:
    """The valuer's store, read beside it."""
    return Database(paths(config.load(world.valuer_config)).store_url)


def feed_of(hub: Hub, site: Site) -> bytes:
    """The id of a loan's feed."""
    return FeedKey(hub.domain.chain_id, TITLE, site.token_id).feed_id


def window_with(world: World, kind: EventKind) -> tuple[str, int]:
    """Host and sequence of the first window in the ledger that tells of such an event."""
    store = database(world)
    try:
        stored = store.read(lambda connection: windows_from(connection, position=0, limit=10_000))
    finally:
        store.close()
    for window in stored:
        for leaf in window.leaves():
            if leaf.content.group is Group.HEALTH and any(
                event.kind is kind for event in leaf.content.events()
            ):
                return window.header.host_id, window.header.sequence
    raise DemoError(f"no window in the ledger tells of {kind.name}")
