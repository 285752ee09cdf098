"""Confirm and Cancel: at most one decision per transaction, a repeat agrees, the contrary is told what was decided."""

import concurrent.futures

import grpc
import pytest
from harness import rounds
from harness.client import CANCELLED, CONFIRMED, PREPARED, RPC, message, refused, error_of
from harness.ids import uuid7
from txmsg.v1 import transaction_pb2


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(nowhere={"discard": {}})


@pytest.fixture
def prepared(client, topic):
    tx = uuid7()
    client.prepare([message(topic)], tx=tx)
    return tx


def test_confirm(client, prepared):
    answers = [client.confirm(prepared, producer=p) for p in ("shop", "", "shop")]
    assert {(a.state, a.origin, a.transaction_id) for a in answers} == {(CONFIRMED, RPC, prepared)}
    assert len({a.decision_time.ToNanoseconds() for a in answers}) == 1
    view = client.get(prepared)
    assert (view.state, view.decision, view.origin) == (CONFIRMED, transaction_pb2.DECISION_COMMITTED, RPC)


def test_cancel(client, prepared):
    answers = [client.cancel(prepared, producer="shop", reason="sold out"), client.cancel(prepared),
               client.cancel(prepared, reason="another reason")]
    assert {(a.state, a.origin) for a in answers} == {(CANCELLED, RPC)}
    view = client.get(prepared)
    assert (view.state, view.decision, view.reason) == (CANCELLED, transaction_pb2.DECISION_ROLLED_BACK, "sold out")


def test_confirm_after_cancel(client, prepared):
    client.cancel(prepared)
    with refused("FAILED_PRECONDITION", "DECIDED_OTHERWISE", transaction_id=prepared, decision="ROLLED_BACK", origin="RPC"):
        client.confirm(prepared)
    assert client.get(prepared).state == CANCELLED


def test_cancel_after_confirm(client, prepared):
    client.confirm(prepared)
    with refused("FAILED_PRECONDITION", "DECIDED_OTHERWISE", transaction_id=prepared, decision="COMMITTED", origin="RPC"):
        client.cancel(prepared, producer="shop")
    assert client.get(prepared).state == CONFIRMED


@pytest.mark.parametrize("call", ["confirm", "cancel"])
def test_wrong_producer(client, prepared, call):
    with refused("FAILED_PRECONDITION", "PRODUCER_MISMATCH", transaction_id=prepared):
        getattr(client, call)(prepared, producer="somebody-else")
    assert client.get(prepared).state == PREPARED


def test_unknown_ids(client):
    for call in (client.confirm, client.cancel):
        tx = uuid7()
        with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND", transaction_id=tx):
            call(tx)
    tx = uuid7()
    with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND", transaction_id=tx):
        client.confirm(tx, producer="shop")


@pytest.mark.parametrize("call", ["confirm", "cancel"])
@pytest.mark.parametrize("bad", ["", "words", "6a2f41a3-c54c-4ce8-8c2d-0d7b8c1f2a3b"])
def test_bad_ids(client, call, bad):
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        getattr(client, call)(bad, producer="shop")
    assert "transaction_id" in caught.error.fields


def test_reason_too_long(client, prepared):
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.cancel(prepared, reason="r" * 1025)
    assert "reason" in caught.error.fields


def test_confirm_before_prepare_may_be_repeated(client, topic):
    tx = uuid7()
    with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND", transaction_id=tx):
        client.confirm(tx, producer="shop")
    client.prepare([message(topic)], tx=tx)
    assert client.confirm(tx, producer="shop").state == CONFIRMED


def test_losers_are_not_sent(world, client):
    """A Confirm that came too late, and the repeat of one that did not, send nothing."""
    sink = world.sink()
    topic = world.topic(here=sink)
    cancelled, confirmed = uuid7(), uuid7()
    for tx in (cancelled, confirmed):
        client.prepare([message(topic)], tx=tx)
    client.cancel(cancelled)
    with refused("FAILED_PRECONDITION", "DECIDED_OTHERWISE"):
        client.confirm(cancelled)
    for _ in range(2):
        client.confirm(confirmed)
        client.publish([message(topic)], tx=confirmed)
    marker = client.publish([message(topic)], tx=uuid7()).transaction_id
    sink.wait_for(marker)
    assert not sink.of(cancelled), "a cancelled transaction was sent"
    assert len(sink.of(confirmed)) == 1


def test_tombstone_alone_refuses_confirm(world, client):
    """The header without messages says enough: it is not confirmed even if its decision should be missing."""
    tx = uuid7()
    world.sql("INSERT INTO message (tx, n, total, delay_class, check_after, producer) VALUES (%s, 0, 0, 0, 0, 'shop')", tx)
    with refused("FAILED_PRECONDITION", "DECIDED_OTHERWISE"):
        client.confirm(tx)
    assert not world.sql("SELECT 1 FROM decision WHERE tx = %s", tx)


class TestTombstone:
    """A Cancel that comes first, with its producer, closes the id for good."""

    @pytest.fixture
    def tombstone(self, client):
        tx = uuid7()
        status = client.cancel(tx, producer="shop", reason="too late")
        assert (status.state, status.origin) == (CANCELLED, RPC)
        assert not status.HasField("prepare_time")
        return tx

    @pytest.mark.parametrize("call", ["prepare", "publish"])
    def test_refuses_what_comes_late(self, client, topic, tombstone, call):
        for _ in range(2):
            with refused("FAILED_PRECONDITION", "DECIDED_OTHERWISE", transaction_id=tombstone, decision="ROLLED_BACK",
                         origin="RPC"):
                getattr(client, call)([message(topic)], tx=tombstone)

    def test_refuses_confirm(self, client, tombstone):
        with refused("FAILED_PRECONDITION", "DECIDED_OTHERWISE", decision="ROLLED_BACK"):
            client.confirm(tombstone)

    def test_cancel_again(self, client, tombstone):
        assert client.cancel(tombstone, producer="shop").state == CANCELLED
        assert client.cancel(tombstone).state == CANCELLED

    def test_can_be_seen(self, client, tombstone):
        view = client.get(tombstone)
        assert (view.state, view.producer, len(view.messages)) == (CANCELLED, "shop", 0)
        assert not view.HasField("prepare_time") and view.HasField("decision_time")

    @pytest.mark.parametrize("shift", [-25 * 3600, 6 * 60])
    def test_only_inside_the_window(self, client, shift):
        tx = uuid7(shift)
        with refused("INVALID_ARGUMENT", "ID_TIME_OUT_OF_WINDOW", transaction_id=tx):
            client.cancel(tx, producer="shop")


def test_race_has_one_winner(client, topic):
    """Confirms and Cancels of one id at once: all agree with what is stored in the end, the others are told so."""
    def attempt(call, tx):
        try:
            return getattr(client, call)(tx, producer="shop").state
        except grpc.RpcError as rpc_error:
            error = error_of(rpc_error)
            assert error.reason == "DECIDED_OTHERWISE"
            return {"COMMITTED": CONFIRMED, "ROLLED_BACK": CANCELLED}[error.metadata["decision"]]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for _ in range(rounds(20)):
            tx = uuid7()
            client.prepare([message(topic)], tx=tx)
            seen = set(pool.map(lambda i, tx=tx: attempt("confirm" if i % 2 else "cancel", tx), range(16)))
            assert seen == {client.get(tx).state}


def test_race_of_prepare_has_one_content(client, topic):
    """Prepares of one id with two contents at once: one is stored whole, the others are refused."""
    def attempt(body, tx):
        try:
            client.prepare([message(topic, body), message(topic, body)], tx=tx)
            return body
        except grpc.RpcError as rpc_error:
            assert error_of(rpc_error).reason == "CONTENT_DIFFERS"
            return None

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for _ in range(rounds(20)):
            tx = uuid7()
            bodies = set(pool.map(lambda i, tx=tx: attempt([b"a", b"b"][i % 2], tx), range(16))) - {None}
            assert len(bodies) == 1
            assert {m.message.body for m in client.get(tx, bodies=True).messages} == bodies
