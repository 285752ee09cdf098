"""Every bound of the configuration that a caller can reach: beyond it he is refused before anything is accepted, the
others are served, and when the load is gone all is as before."""

import contextlib
import os
import socket
import threading
import time

import grpc
import pytest
from harness import hostile, http2
from harness.client import (CONFIRMED, DELIVERY, Client, error_of, message, prepare_request, publish_request, refused, service_pb2)
from harness.ids import uuid7
from harness.peers import HttpSink, Reply
from harness.system import memory, metric, room
from servers.process import wait_until

ROOM = room(60)
DELIVERED = DELIVERY["DELIVERED"]
GET = "/txmsg.v1.MessageService/GetTransaction"
PUBLISH = "/txmsg.v1.MessageService/Publish"
HEALTH = "/grpc.health.v1.Health/Check"
OPTIONS = {"grpc.calls": 100, "grpc.memory": "4MiB", "grpc.max_streams": 60, "grpc.reply_timeout": "2s",
           "grpc.handshake_timeout": "1s", "http.connections": 8, "lane.queue_size": "1MiB",
           "forward.spill_limit": 5, "forward.tail": "1MiB", "forward.window": 4, "web.in_flight": 8}


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(nowhere={"discard": {}})


@pytest.fixture(autouse=True)
def goes_on(client, topic):
    yield
    wait_until(lambda: publishes(client, topic), 30, "the service goes on")


def publishes(client, topic):
    try:
        return client.publish([message(topic)], tx=uuid7()).state == CONFIRMED
    except grpc.RpcError as error:
        assert error_of(error).code == "RESOURCE_EXHAUSTED"
        return False


@contextlib.contextmanager
def unread(daemon, requests):
    """Calls on connections of 50 each whose answers find no window."""
    with contextlib.ExitStack() as stack:
        for i in range(0, len(requests), 50):
            c = stack.enter_context(http2.Connection(daemon.grpc_port, window=0))
            c.send(b"".join(http2.call(2 * n + 1, path, data) for n, (path, data) in enumerate(requests[i:i + 50])))
        yield


def overloaded(client, topic):
    """A call is refused now, and nothing of it is stored."""
    tx = uuid7()
    try:
        client.publish([message(topic)], tx=tx)
        return None
    except grpc.RpcError as caught:
        error = error_of(caught)
        assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED"), error
        return tx, error


def test_calls_under_way(world, client, topic):
    """Answers that nobody reads hold their places until grpc.reply_timeout; health is told all the while."""
    requests = [(PUBLISH, publish_request([message(topic)], tx=uuid7()).SerializeToString()) for _ in range(100)]
    with unread(world.txmsgd, requests):
        tx, error = wait_until(lambda: overloaded(client, topic), 20, "a call is refused")
        assert "too many calls" in error.message
        with http2.Connection(world.txmsgd.grpc_port) as c:
            c.send(http2.call(1, HEALTH, b""))
            assert c.read_until(http2.DATA, 1)
        wait_until(lambda: publishes(client, topic), 20, "the unread answers are given up")
    with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
        client.get(tx)


def test_memory_of_calls(world, client, topic):
    """Few calls with large answers."""
    tx = uuid7()
    client.publish([message(topic, b"x" * 900_000)], tx=tx)
    request = service_pb2.GetTransactionRequest(transaction_id=tx, include_bodies=True).SerializeToString()
    with unread(world.txmsgd, [(GET, request)] * 6):
        tx, error = wait_until(lambda: overloaded(client, topic), 20, "a call is refused")
        assert "memory" in error.message
        wait_until(lambda: publishes(client, topic), 20, "the unread answers are given up")
    with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
        client.get(tx)


def test_messages_that_never_end(world, client, topic):
    """Core's own bound, twice grpc.memory: it resets calls, of others as well, and says no more than the code."""
    pid = world.txmsgd.process.pid
    before = memory(pid)[0]
    attack = threading.Thread(
        target=hostile.half_messages, args=(world.txmsgd.grpc_port, time.monotonic() + 3), kwargs={"streams": 50})
    attack.start()
    while attack.is_alive():
        try:
            client.publish([message(topic)], tx=uuid7())
        except grpc.RpcError as error:
            # Late as well: core reads all of a connection before it hands out what others have sent.
            assert error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE,
                                    grpc.StatusCode.DEADLINE_EXCEEDED), error
        assert memory(pid)[0] - before < ROOM
    wait_until(lambda: publishes(client, topic), 20, "others are served")


def test_calls_of_one_connection(world, client, topic):
    """grpc.max_streams: core ends the connection of a caller who has acknowledged it and opens more. One who keeps to
    it is served in turn; one who does not acknowledge meets grpc.calls, as in the test above."""
    with http2.Connection(world.txmsgd.grpc_port, window=0) as c:
        c.send(http2.frame(http2.SETTINGS, b"", http2.ACK))
        told = c.read_until(http2.SETTINGS)[3]
        assert (3).to_bytes(2, "big") + (60).to_bytes(4, "big") in told
        c.read_until(http2.SETTINGS)
        c.send(b"".join(http2.call(2 * n + 1, HEALTH, b"") for n in range(60)))
        c.send(http2.call(121, HEALTH, b""))
        with pytest.raises(ConnectionError):
            while True:
                c.read()
    futures = [client.messages.Publish.future(publish_request([message(topic)], tx=uuid7()), timeout=30) for _ in range(90)]
    assert [f.result().status.state for f in futures] == [CONFIRMED] * 90


def test_payload_waiting_for_a_commit(world, client, topic):
    """lane.queue_size, in bytes."""
    ids = [uuid7() for _ in range(12)]
    body = b"x" * 250_000
    world.sql("BEGIN; LOCK TABLE lane_log IN SHARE MODE")
    futures = []
    try:
        for tx in ids:
            futures.append(client.messages.Prepare.future(prepare_request([message(topic, body)], tx=tx), timeout=60))
        wait_until(lambda: any(f.done() for f in futures), 30, "a call is refused")
    finally:
        world.sql("COMMIT")
    stored = 0
    for tx, future in zip(ids, futures):
        try:
            future.result()
            stored += 1
        except grpc.RpcError as caught:
            error = error_of(caught)
            assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED"), error
            with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
                client.get(tx)
    assert 0 < stored < len(ids)


def test_a_connection_that_says_nothing(world):
    """grpc.handshake_timeout."""
    with socket.create_connection(("127.0.0.1", world.txmsgd.grpc_port), timeout=30) as s:
        while s.recv(65536):
            pass


def test_a_connection_without_calls(world, topic):
    """grpc.idle; a client with a library does not notice."""
    daemon = world.daemon("idle", {"grpc.idle": "1s"}).start()
    other = Client(daemon.grpc)
    assert publishes(other, topic)
    with http2.Connection(daemon.grpc_port) as c:
        c.send(http2.frame(http2.SETTINGS, b"", http2.ACK) + http2.call(1, HEALTH, b""))
        assert c.read_until(http2.GOAWAY)
    assert publishes(other, topic)
    other.close()
    assert daemon.stop() == 0


def test_http_connections(world):
    """http.connections: more wait until one of those ends, which takes 10 s at most."""
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    address = ("127.0.0.1", world.txmsgd.http_port)
    opened = [socket.create_connection(address, timeout=30) for _ in range(8)]
    try:
        for s in opened:
            s.sendall(request)
        with socket.create_connection(address, timeout=30) as waits:
            waits.sendall(request + b"\r\n")
            waits.settimeout(1)
            with pytest.raises(TimeoutError):
                waits.recv(1)
            waits.settimeout(30)
            opened.pop().close()
            assert waits.recv(12) == b"HTTP/1.1 200"
    finally:
        for s in opened:
            s.close()
    wait_until(lambda: world.txmsgd.get("/healthz")[0] == 200, 20, "it answers again")


def test_list_pages(client, topic):
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        client.list(page_size=-1)
    for _ in range(3):
        client.publish([message(topic)], tx=uuid7())
    page = client.list(topic=topic, page_size=2)
    assert len(page.transactions) == 2 and page.next_page_token
    assert len(client.list(topic=topic, page_size=2**31 - 1).transactions) <= 1000


@pytest.fixture
def held(world):
    """A sink that keeps every request waiting, and what lets them go."""
    go = threading.Event()
    sink = HttpSink(Reply(200, held=go))
    world.closing.append(sink)
    yield sink, go
    go.set()


def settled(world, client):
    """A message that came after all others is delivered."""
    marker = world.topic(nowhere={"discard": {}})
    tx = client.publish([message(marker)], tx=uuid7()).transaction_id
    world.wait_delivery(tx, f"{marker}-nowhere", DELIVERED)


def test_deliveries_in_flight(world, client, held):
    """forward.window of one subscription, web.in_flight of all; what must wait is kept in the log beyond forward.tail."""
    sink, go = held
    patient = {"http": {"url": sink.url("/hook"), "timeout": "60s"}}
    topics = [world.topic(hook=patient) for _ in range(3)]
    sent = {}

    def publish(topic, n):
        for _ in range(n):
            body = os.urandom(100_000)
            sent[client.publish([message(topic, body)], tx=uuid7()).transaction_id] = body

    publish(topics[0], 20)
    sink.wait(4)
    settled(world, client)
    assert len(sink.got()) == 4
    publish(topics[1], 10)
    publish(topics[2], 10)
    sink.wait(8)
    settled(world, client)
    assert len(sink.got()) == 8
    go.set()
    for tx, body in sent.items():
        assert sink.wait_for(tx, timeout=60)[0].body == body
    assert metric(world.txmsgd, "txmsg_delivered_from_total", source="log") > 0


def test_failed_deliveries_that_wait(world, client):
    """forward.spill_limit rows of one subscription, and what was in flight; then its cursor parks."""
    sink = world.sink(reply=Reply(500))
    topic = world.topic(hook=sink)
    ids = [client.publish([message(topic)], tx=uuid7()).transaction_id for _ in range(40)]

    def rows():
        return world.sql("SELECT count(*) FROM delivery_due d JOIN subscription s ON s.id = d.sub WHERE s.name = %s",
                         f"{topic}-hook")[0][0]

    wait_until(lambda: rows() >= 5, 20, "failed deliveries wait")
    settled(world, client)
    assert rows() <= 5 + 4
    sink.reply = Reply(200)
    for tx in ids:
        world.wait_delivery(tx, f"{topic}-hook", DELIVERED)
