"""`assay-valuer oracle`: from a key to a feed that shows, on the development chain; and what is refused."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from assay_core.money import ZERO
from assay_valuer.cli import main
from assay_valuer.config import load
from assay_valuer.oracle.deploy import transact
from assay_valuer.oracle.hub import Hub, pause_data, register_feed_data, unpause_data
from assay_valuer.oracle.outbox import PostState
from assay_valuer.oracle.outbox_sql import SqlOutbox
from assay_valuer.oracle.publisher import Publisher
from assay_valuer.oracle.report import DECIMALS, Domain, FeedKey
from assay_valuer.oracle.rpc import JsonRpc
from assay_valuer.oracle.sender import Lane, LaneLimits
from assay_valuer.oracle.signer import create_keystore, open_keystore
from assay_valuer.oracle.transaction import GWEI, Fees, Unsigned, sign
from assay_valuer.state import open_state
from tests.fakes import chain
from tests.fakes.chain import account
from tests.fakes.collateral import loan_text
from tests.fakes.oracle import FEED, GUARDIAN, OUTSIDER, SENDER, SIGNERS, HubUnderTest, pause

KEYS = SIGNERS[:3]
ADDRESSES = [key.address for key in KEYS]
FEED_2 = FeedKey(FEED.chain_id, FEED.collateral_token, 8)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command gave."""

    code: int
    out: str
    err: str

    def json(self) -> dict:
        return json.loads(self.out)


def cli(*words: object) -> Ran:
    """Runs `assay-valuer` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())


def oracle(command: str, *words: object) -> Ran:
    return cli("oracle", command, *words)


@dataclass(frozen=True, slots=True)
class Place:
    """A chain, an operator's folder and a funded key in it."""

    url: str
    folder: Path
    keystore: Path
    passphrase: Path

    @property
    def unlocked(self) -> tuple[object, ...]:
        return "--keystore", self.keystore, "--passphrase-file", self.passphrase

    def deploy(self, *more: object, threshold: int = 2, guardian: str = GUARDIAN.address) -> Ran:
        return oracle(
            "deploy", "--rpc", self.url, *self.unlocked, "--signer", *ADDRESSES,
            "--threshold", threshold, "--guardian", guardian, *more,
        )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("operator")
    os.environ["COLUMNS"] = "240"  # so that no cell of a table is broken over lines
    passphrase = secret(folder / "passphrase")
    with chain.devchain(folder) as running:
        keystore = folder / "admin.json"
        fund(running.rpc(), create_keystore(keystore, passphrase, iterations=2))
        yield Place(running.url, folder, keystore, passphrase)


@dataclass(frozen=True, slots=True)
class Valuer:
    """A configured valuer with two loans, and the hub it was configured from."""

    place: Place
    config: Path
    under_test: HubUnderTest

    def __call__(self, command: str, *words: object) -> Ran:
        return oracle(command, "--config", self.config, *words)

    def show(self) -> dict:
        return {row["loan"]: row for row in self("show", "--json").json()["feeds"]}


@pytest.fixture
def valuer(place, tmp_path) -> Iterator[Valuer]:
    deployed = place.deploy()
    assert deployed.code == 0, deployed.err
    lines = f"state_dir: {tmp_path / 'state'}\n{deployed.out}"
    config = tmp_path / "valuer.yaml"
    config.write_text(lines)
    assert cli("init", "--config", config).code == 0
    for number, token in ((1, 7), (2, 8)):
        path = tmp_path / f"loan-{number}.yaml"
        path.write_text(loan_text([f"S{number}"], loan_id=f"loan-{number}", token_id=token))
        assert cli("loan", "import", "--config", config, path).code == 0
    domain = Domain(yaml.safe_load(lines)["oracle"]["chain_id"], hub_of(deployed))
    hub = Hub(JsonRpc(place.url), domain)
    yield Valuer(place, config, HubUnderTest(hub, tuple(KEYS), 2, FEED.feed_id))
    hub.rpc.close()


def secret(path: Path, text: str = "correct horse battery staple") -> Path:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def hub_of(deployed: Ran) -> str:
    return yaml.safe_load(deployed.out)["oracle"]["hub"]


def fund(rpc: JsonRpc, address: str) -> None:
    rich = account(6)
    raw = sign(
        Unsigned(
            chain_id=rpc.chain_id(),
            nonce=rpc.nonce(rich.address),
            to=address,
            data=b"",
            gas=21_000,
            fees=Fees(5 * GWEI, GWEI),
            value_wei=10**20,
        ),
        rich,
    )
    rpc.send_raw(raw)
    assert rpc.balance_wei(address) == 10**20


def dead_endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


# ------------------------------------------------------------------------------- keystore


def test_a_keystore_is_encrypted_private_and_opens_as_the_address_printed(place, tmp_path):
    keystore = tmp_path / "key.json"
    made = oracle("keystore", keystore, "--passphrase-file", place.passphrase)
    assert made.code == 0, made.err
    assert stat.S_IMODE(keystore.stat().st_mode) == 0o600
    assert open_keystore(keystore, place.passphrase).address == made.out.strip()
    kept = keystore.read_bytes()
    again = oracle("keystore", keystore, "--passphrase-file", place.passphrase)
    assert (again.code, again.out) == (1, "")
    assert "exists already" in again.err
    assert keystore.read_bytes() == kept


def test_a_passphrase_that_others_may_read_makes_no_key(tmp_path):
    passphrase = secret(tmp_path / "passphrase", "hunter2")
    passphrase.chmod(0o644)
    made = oracle("keystore", tmp_path / "key.json", "--passphrase-file", passphrase)
    assert made.code == 2
    assert "chmod 600" in made.err
    assert "hunter2" not in made.err
    assert not (tmp_path / "key.json").exists()


def test_a_missing_passphrase_file_is_named(tmp_path):
    made = oracle("keystore", tmp_path / "key.json", "--passphrase-file", tmp_path / "none")
    assert made.code == 1
    assert str(tmp_path / "none") in made.err


# ------------------------------------------------------------------------------- deploy


def test_deploy_prints_the_lines_of_a_configuration_that_loads(place, valuer):
    config = load(valuer.config).oracle
    assert config.hub == valuer.under_test.hub.domain.hub
    assert config.rpc_urls == (place.url,)
    assert (config.threshold, config.development, config.enabled) == (2, True, False)
    hub = valuer.under_test.hub
    hub.check()
    assert hub.admin() == open_keystore(place.keystore, place.passphrase).address
    assert hub.config().guardian == GUARDIAN.address
    assert [hub.signer_version(one) for one in (*ADDRESSES, OUTSIDER.address)] == [1, 1, 1, 0]


def test_deploy_tells_machines_the_same(place):
    told = place.deploy("--admin", OUTSIDER.address, "--json").json()
    assert told["roles"]["admin"] == OUTSIDER.address
    assert told["roles"]["signers"] == ADDRESSES
    rpc = JsonRpc(place.url)
    assert Hub(rpc, Domain(told["chain_id"], told["hub"])).admin() == OUTSIDER.address


def test_an_endpoints_key_is_not_repeated(place):
    printed = place.deploy("--rpc", f"{place.url}/?key=s3cret")
    assert printed.code == 0, printed.err
    assert "s3cret" not in printed.out + printed.err
    assert yaml.safe_load(printed.out)["oracle"]["rpc_urls"] == ["URL"]


@pytest.mark.parametrize("threshold", [0, 1, 4])
def test_a_threshold_that_is_no_majority_is_refused_before_anything_is_sent(place, threshold):
    rpc = JsonRpc(place.url)
    before = rpc.head_number()
    refused = place.deploy(threshold=threshold)
    assert (refused.code, refused.out) == (2, "")
    assert "majority" in refused.err
    assert rpc.head_number() == before


@pytest.mark.parametrize(
    ("guardian", "words"),
    [
        ("0x" + "0" * 40, "zero address"),
        ("0x1234", "not an address"),
        (GUARDIAN.address.swapcase().replace("0X", "0x"), "checksum"),
        ("guardian.eth", "not an address"),
    ],
)
def test_mistyped_addresses_are_refused(place, guardian, words):
    refused = place.deploy(guardian=guardian)
    assert refused.code == 2
    assert words in refused.err


def test_a_signer_counts_once(place):
    refused = place.deploy("--signer", ADDRESSES[0])
    assert refused.code == 2
    assert "twice" in refused.err


def test_a_wrong_passphrase_is_said_and_not_shown(place, tmp_path):
    wrong = secret(tmp_path / "wrong", "hunter2")
    refused = place.deploy("--passphrase-file", wrong)
    assert refused.code == 2
    assert "does not open" in refused.err
    assert "hunter2" not in refused.err


def test_a_key_without_funds_deploys_nothing(place, tmp_path):
    create_keystore(tmp_path / "poor.json", place.passphrase, iterations=2)
    refused = place.deploy("--keystore", tmp_path / "poor.json")
    assert refused.code == 3
    assert "Traceback" not in refused.err
    assert refused.out == ""


@pytest.mark.parametrize(("url", "code"), [("ws://127.0.0.1:1", 2), ("dead", 3)])
def test_an_endpoint_that_cannot_be_used(place, url, code):
    refused = place.deploy("--rpc", dead_endpoint() if url == "dead" else url)
    assert refused.code == code
    assert refused.out == ""


def test_without_an_endpoint_it_says_where_one_is_named(place):
    words = ("--signer", *ADDRESSES, "--threshold", 2, "--guardian", GUARDIAN.address)
    refused = oracle("deploy", *place.unlocked, *words)
    assert refused.code == 2
    assert "rpc_urls" in refused.err


# ------------------------------------------------------------------------------- register


def test_feeds_are_registered_once_each(valuer):
    hub, unlocked = valuer.under_test.hub, valuer.place.unlocked
    first = valuer("register", *unlocked, "loan-1")
    assert first.code == 0, first.err
    assert first.out == f"loan-1 0x{FEED.feed_id.hex()} registered\n"
    assert hub.is_registered(FEED.feed_id)
    assert not hub.is_registered(FEED_2.feed_id)
    every = valuer("register", "--all", *unlocked)
    assert every.code == 0
    assert "loan-1" in every.out.splitlines()[0]
    assert "was registered already" in every.out.splitlines()[0]
    assert every.out.splitlines()[1] == f"loan-2 0x{FEED_2.feed_id.hex()} registered"
    assert hub.is_registered(FEED_2.feed_id)


def test_a_timelock_is_given_the_calls(place, valuer, tmp_path):
    """The admin is somebody else: our key is refused, its owner sends what --data printed."""
    deployed = place.deploy("--admin", OUTSIDER.address)
    config = tmp_path / "other.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\n{deployed.out}")
    refused = oracle("register", "--config", config, "loan-1", *place.unlocked)
    assert refused.code == 1
    assert "NotAdmin" in refused.err
    assert OUTSIDER.address in refused.err

    offline = config.read_text().replace(place.url, dead_endpoint())
    config.write_text(offline)
    (call,) = oracle("register", "--config", config, "loan-1", "--data").json()["calls"]
    assert call["to"] == hub_of(deployed)
    assert call["data"] == f"0x{register_feed_data(FEED, DECIMALS).hex()}"
    rpc = JsonRpc(place.url)
    data = bytes.fromhex(call["data"][2:])
    transact(rpc, OUTSIDER, to=call["to"], data=data, pause=pause)
    assert Hub(rpc, Domain(call["chain_id"], call["to"])).is_registered(FEED.feed_id)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "--all"),
        (("loan-1", "--all"), 2, "--all"),
        (("loan-1",), 2, "--keystore"),
        (("loan-9", "--data"), 1, "loan-9"),
    ],
)
def test_what_is_to_be_registered_must_be_said(valuer, words, code, said):
    refused = valuer("register", *words)
    assert (refused.code, refused.out) == (code, "")
    assert said in refused.err


def test_without_a_hub_it_says_how_to_get_one(tmp_path):
    config = tmp_path / "valuer.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\n")
    assert cli("init", "--config", config).code == 0
    for command in (("register", "--all", "--data"), ("show",)):
        refused = oracle(*command, "--config", config)
        assert refused.code == 2
        assert "oracle deploy" in refused.err


# ------------------------------------------------------------------------------- show


def test_what_is_not_there_is_unknown_and_says_what_to_do(valuer):
    shown = valuer("show")
    assert shown.code == 1
    assert "UNKNOWN: the feed is not registered: assay-valuer oracle register loan-1" in shown.out
    assert valuer("register", "--all", *valuer.place.unlocked).code == 0
    row = valuer.show()["loan-1"]
    assert (row["registered"], row["fresh"], row["chain"]) == (True, False, None)
    assert row["why"] == "the feed has no round yet"


def test_a_published_round_is_shown_as_the_chain_has_it_beside_the_outbox(valuer):
    assert valuer("register", "loan-1", *valuer.place.unlocked).code == 0
    world = valuer.under_test
    report = world.report()
    post = publish(valuer, report)
    shown = valuer("show", "loan-1")
    assert shown.code == 0, shown.out + shown.err
    assert "UNKNOWN" not in shown.out
    assert shown.out.count(str(report.olv)) == 2  # on the chain, and in the outbox
    row = valuer.show()["loan-1"]
    assert row["fresh"]
    assert row["feed_id"] == f"0x{FEED.feed_id.hex()}"
    assert row["chain"] == row["outbox"]["report"]
    assert row["chain"] == {
        "round": 1,
        "olv_micros": report.olv.micros,
        "nolv_micros": report.nolv.micros,
        "ltv_gross_bps": 7_123,
        "ltv_net_bps": 8_381,
        "coverage_bps": 10_000,
        "assurance": 0,
        "flags": ["simulated"],
        "observed_at_s": report.observed_at_s,
        "valid_until_s": report.valid_until_s,
    }
    assert row["outbox"]["state"] == post.state.value
    assert valuer("show").code == 1  # loan-2 has no feed


def test_a_planned_round_that_is_not_on_the_chain_is_not_taken_for_it(valuer):
    assert valuer("register", "loan-1", *valuer.place.unlocked).code == 0
    world = valuer.under_test
    with outbox(valuer) as box:
        box.add(world.hub.domain, world.report(4), 1)
    row = valuer.show()["loan-1"]
    assert (row["fresh"], row["chain"]) == (False, None)
    assert (row["outbox"]["state"], row["outbox"]["report"]["round"]) == ("planned", 4)


def test_the_ripcord_makes_a_value_unknown(valuer):
    assert valuer("register", "loan-1", *valuer.place.unlocked).code == 0
    world = valuer.under_test
    report = world.report()
    publish(valuer, report)
    world.send(pause_data(), GUARDIAN)
    shown = valuer("show", "loan-1")
    assert shown.code == 1
    assert "UNKNOWN: the ripcord is pulled" in shown.out
    assert f"UNKNOWN (was {report.olv})" in shown.out
    world.send(unpause_data(), open_keystore(valuer.place.keystore, valuer.place.passphrase))
    assert valuer("show", "loan-1").code == 0


def test_nothing_counted_is_unknown_not_zero(valuer):
    assert valuer("register", "loan-1", *valuer.place.unlocked).code == 0
    world = valuer.under_test
    publish(
        valuer,
        replace(world.report(), olv=ZERO, nolv=ZERO, p10=ZERO, p90=ZERO, coverage_bps=0),
    )
    shown = valuer("show", "loan-1")
    assert shown.code == 1
    assert "UNKNOWN: nothing pledged is counted" in shown.out


def test_a_validity_that_ended_since_the_last_block_makes_a_value_unknown(valuer):
    """Whatever the chain's own clock says between two blocks."""
    assert valuer("register", "loan-1", *valuer.place.unlocked).code == 0
    world = valuer.under_test
    report = replace(world.report(), valid_until_s=int(time.time()) + 5)
    publish(valuer, report)
    while time.time() <= report.valid_until_s + 1:
        time.sleep(0.1)
    row = valuer.show()["loan-1"]
    assert not row["fresh"]
    assert "its validity ended" in row["why"]


def test_the_next_endpoint_is_asked_where_the_first_does_not_answer(valuer):
    text = valuer.config.read_text()
    url = valuer.place.url
    valuer.config.write_text(text.replace(f'["{url}"]', f'["{dead_endpoint()}", "{url}"]'))
    assert valuer("show").code == 1  # it answers: the feeds are not registered
    unreachable = valuer("show", "--rpc", dead_endpoint())
    assert (unreachable.code, unreachable.out) == (3, "")
    assert "no answer" in unreachable.err


def test_another_chain_and_another_contract_are_refused(valuer):
    text = valuer.config.read_text()
    valuer.config.write_text(text.replace(valuer.under_test.hub.domain.hub, OUTSIDER.address))
    stranger = valuer("show")
    assert stranger.code == 3
    assert "not the valuation hub" in stranger.err
    valuer.config.write_text(
        text.replace(f"chain_id: {valuer.under_test.hub.domain.chain_id}", "chain_id: 31337")
    )
    elsewhere = valuer("show")
    assert elsewhere.code == 3
    assert "not of 31337" in elsewhere.err


def test_no_loans_is_said(place, tmp_path):
    config = tmp_path / "valuer.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\n{place.deploy().out}")
    assert cli("init", "--config", config).code == 0
    shown = oracle("show", "--config", config)
    assert shown.code == 0
    assert "no loan is registered" in shown.err


@contextlib.contextmanager
def outbox(valuer: Valuer) -> Iterator[SqlOutbox]:
    state = open_state(load(valuer.config))
    try:
        yield SqlOutbox(state.database)
    finally:
        state.database.close()


def publish(valuer, report):
    """Through the outbox, as the service does."""
    hub = valuer.under_test.hub
    with outbox(valuer) as box:
        Publisher(hub, box, KEYS).publish(report, 1)
        Lane(hub, SENDER, box, LaneLimits(confirm_depth=1)).step(1)
        post = box.newest(hub.domain, report.feed_id)
        assert post is not None
        assert post.state is PostState.INCLUDED
        return post


# ------------------------------------------------------------------------------- the extra

WITHOUT = """
import json, sys
for name in ("eth_account", "eth_abi", "eth_utils", "eth_keys", "eth_typing", "hexbytes",
             "coincurve", "eth"):
    sys.modules[name] = None
from assay_valuer.cli import main
for words in json.loads(sys.argv[1]):
    print("exit code", main(words), "of", words[0], file=sys.stderr)
"""


def test_without_the_extra_everything_else_works_and_the_oracle_says_what_to_install(tmp_path):
    config = tmp_path / "valuer.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\n")
    (tmp_path / "loan.yaml").write_text(loan_text(["S1"]))
    commands = [
        ["init"],
        ["token", "create"],
        ["host", "list"],
        ["loan", "import", str(tmp_path / "loan.yaml")],
        ["oracle", "show"],
    ]
    words = json.dumps([[*command, "--config", str(config)] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("exit code")]
    assert said == [
        "exit code 0 of init",
        "exit code 0 of token",
        "exit code 0 of host",
        "exit code 0 of loan",
        "exit code 3 of oracle",
    ]
    assert "this command needs the extra `oracle`" in done.stderr
