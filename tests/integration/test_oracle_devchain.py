"""The development chain as a node: on loopback alone, at the wall clock's time, in geth's words."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from assay_valuer.devchain.accounts import BALANCE_WEI
from assay_valuer.devchain.evm import CHAIN_ID
from assay_valuer.devchain.server import DevChainServer
from assay_valuer.oracle.report import DEVELOPMENT_CHAIN_IDS
from assay_valuer.oracle.rpc import ChainMalformed, ChainRejected, JsonRpc
from assay_valuer.oracle.signer import LocalSigner
from assay_valuer.oracle.transaction import GWEI, Fees, Unsigned, hash_of, sign
from tests.fakes import chain
from tests.fakes.chain import account

FEES = Fees(5 * GWEI, GWEI)
TO = account(1).address


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[chain.RunningChain]:
    with chain.devchain(tmp_path_factory.mktemp("devchain")) as started:
        yield started


@pytest.fixture
def rpc(running) -> Iterator[JsonRpc]:
    client = running.rpc()
    yield client
    client.close()


def transfer(nonce: int, *, key: LocalSigner | None = None, chain_id: int = CHAIN_ID) -> bytes:
    unsigned = Unsigned(
        chain_id=chain_id, nonce=nonce, to=TO, data=b"", gas=21_000, fees=FEES, value_wei=1
    )
    return sign(unsigned, account(2) if key is None else key)


def test_it_says_what_it_is(rpc):
    assert rpc.chain_id() == CHAIN_ID
    assert CHAIN_ID in DEVELOPMENT_CHAIN_IDS
    assert json.loads(rpc.request("net_version")) == str(CHAIN_ID)
    assert "devchain" in json.loads(rpc.request("web3_clientVersion"))
    assert rpc.balance_wei(account(9).address) == BALANCE_WEI
    assert rpc.code(TO) == b""
    assert rpc.priority_fee_wei() > 0
    assert json.loads(rpc.request("eth_gasPrice")).startswith("0x")


def test_each_transaction_is_mined_at_once_at_the_wall_clocks_time(rpc):
    before, nonce = rpc.head_number(), rpc.nonce(account(2).address)
    for i in range(5):
        raw = transfer(nonce + i)
        assert rpc.send_raw(raw) == hash_of(raw)
        receipt = rpc.receipt(hash_of(raw))
        assert receipt is not None
        assert receipt.succeeded
        assert receipt.gas_used == 21_000
        assert receipt.block_number == before + 1 + i
        assert rpc.knows(hash_of(raw))
    assert rpc.nonce(account(2).address) == nonce + 5
    head = rpc.block("latest")
    assert head is not None
    assert head.timestamp_s <= time.time() + 1
    for tag in ("safe", "finalized", "pending"):
        assert rpc.block(tag) == head
    assert rpc.block(head.number + 1) is None


def test_refusals_are_worded_as_geth_words_them(rpc):
    nonce = rpc.nonce(account(2).address)
    raw = transfer(nonce)
    rpc.send_raw(raw)
    for bad, words in (
        (raw, "already known"),
        (transfer(nonce, chain_id=1), "invalid chain id"),
        (sign_other(nonce), "nonce too low"),
        (transfer(nonce + 5), "nonce too high"),
        (transfer(0, key=LocalSigner(b"\x0a" * 32)), "insufficient funds"),
        (b"\x02garbage", "cannot be decoded"),
        (b"", "cannot be decoded"),
    ):
        with pytest.raises(ChainRejected, match=words):
            rpc.send_raw(bad)
    assert rpc.nonce(account(2).address) == nonce + 1


def sign_other(nonce: int) -> bytes:
    return sign(
        Unsigned(chain_id=CHAIN_ID, nonce=nonce, to=TO, data=b"", gas=22_000, fees=FEES),
        account(2),
    )


def test_a_fee_below_the_base_fee_is_refused_and_mines_nothing(rpc):
    head = rpc.head_number()
    unsigned = Unsigned(
        chain_id=CHAIN_ID, nonce=rpc.nonce(account(2).address), to=TO, data=b"", gas=21_000,
        fees=Fees(1, 1),
    )  # fmt: skip
    with pytest.raises(ChainRejected):
        rpc.send_raw(sign(unsigned, account(2)))
    assert rpc.head_number() == head
    rpc.send_raw(transfer(rpc.nonce(account(2).address)))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"nonsense", -32700),
        (b"5", -32600),
        (b'{"id": 1}', -32600),
        (b'{"id": 1, "method": "eth_call", "params": "x"}', -32600),
        (b'{"id": 1, "method": "eth_nonsense"}', -32601),
        (b'{"id": 1, "method": "eth_getBalance", "params": []}', -32602),
        (b'{"id": 1, "method": "eth_getBalance", "params": ["0x12"]}', -32602),
        (b'{"id": 1, "method": "eth_getBlockByNumber", "params": ["one"]}', -32602),
        (b'{"id": 1, "method": "eth_getLogs", "params": [{"fromBlock": "0x0", "topics": [5]}]}', 0),
    ],
    ids=str,
)
def test_bad_requests_are_answered_and_the_chain_goes_on(running, rpc, body, code):
    answer = httpx.post(running.url, content=body, trust_env=False).json()
    assert answer.get("error", {"code": 0})["code"] == code
    assert rpc.chain_id() == CHAIN_ID


def test_a_batch_is_answered_in_order(running):
    requests: list[dict[str, object]] = [
        {"id": i, "method": "eth_chainId", "params": []} for i in (7, 8)
    ]
    answers = httpx.post(running.url, json=requests, trust_env=False).json()
    assert [answer["id"] for answer in answers] == [7, 8]


def test_a_page_under_another_name_and_a_huge_request_are_turned_away(running):
    headers = {"Host": "evil.example"}
    request = {"id": 1, "method": "eth_chainId", "params": []}
    assert (
        httpx.post(running.url, json=request, headers=headers, trust_env=False).status_code == 403
    )
    with httpx.Client(trust_env=False) as client:
        try:
            status = client.post(running.url, content=b"x" * (1024 * 1024 + 1)).status_code
        except httpx.TransportError:
            return  # it hung up while the body was still being sent
        assert status == 413


def test_it_listens_on_loopback_alone():
    with pytest.raises(ValueError, match="not a loopback address"):
        DevChainServer("0.0.0.0", 0)
    done = subprocess.run(
        [sys.executable, "-m", "assay_valuer.devchain", "--host", "192.0.2.1"],
        capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "not a loopback address" in done.stderr


def test_time_can_be_moved_on(tmp_path):
    with chain.devchain(tmp_path) as own:
        rpc = own.rpc()
        rpc.request("evm_increaseTime", [3600])
        rpc.request("evm_mine")
        head = rpc.block("latest")
        assert head is not None
        assert head.timestamp_s >= time.time() + 3590


def test_logs_and_blocks_of_the_past(rpc):
    assert json.loads(rpc.request("eth_getLogs", [{"fromBlock": "0x0", "toBlock": "latest"}])) == []
    with pytest.raises((ChainRejected, ChainMalformed)):
        rpc.call(TO, b"", at=10**6)
    genesis = rpc.block(0)
    assert genesis is not None
    assert genesis.number == 0
    full = json.loads(rpc.request("eth_getBlockByNumber", [hex(rpc.head_number()), True]))
    assert full["transactions"][0]["from"] == account(2).address
