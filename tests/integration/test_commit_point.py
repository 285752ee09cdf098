"""Everything hangs on the commit: before it nothing is answered, remembered or sent, one is under way on a lane at a time,
and one that was given up never comes true later."""

import concurrent.futures

import grpc
import psycopg2
import pytest
from harness.client import CONFIRMED, Client, message, publish_request, refused, result_state
from harness.commits import Commits, waiting
from harness.ids import uuid7
from harness.peers import Proxy
from servers.process import wait_until

OPTIONS = {"workers": 1}
FORM = pytest.mark.parametrize("exact", [False, True], ids=["optimistic", "exact"])


@pytest.fixture(scope="module")
def commits(world):
    return Commits(world)


@pytest.fixture
def sink(world):
    return world.sink()


@pytest.fixture
def topic(world, commits, sink):
    yield world.topic(here=sink)
    commits.release()


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(8) as made:
        yield made


def surprise(client, topic):
    """A repeat aborts the optimistic form; for the next seconds the lane uses the exact one."""
    tx = uuid7()
    for _ in range(2):
        client.prepare([message(topic)], tx=tx)


@FORM
def test_refused_commit(client, commits, topic, sink, exact):
    """PostgreSQL takes every row and refuses the commit: no OK, nothing stored, nothing sent."""
    if exact:
        surprise(client, topic)
    tx = uuid7()
    commits.refuse(tx)
    with refused("UNAVAILABLE", "STORE_UNAVAILABLE"):
        client.publish([message(topic)], tx=tx)
    commits.release()
    with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
        client.get(tx)
    marker = client.publish([message(topic)], tx=uuid7()).transaction_id
    assert sink.key(sink.wait(1)[0]) == f"{marker}-0", "sent, and never committed"
    sink.wait_for(marker)


@FORM
def test_refused_commit_leaves_no_body(world, client, commits, topic, sink, exact):
    """What was not committed is not kept in memory either: the same id may be prepared with other content elsewhere, and
    that is what is sent."""
    second = world.daemon("second").start()
    other = Client(second.grpc)
    try:
        if exact:
            surprise(client, topic)
        tx = uuid7()
        commits.refuse(tx)
        with refused("UNAVAILABLE", "STORE_UNAVAILABLE"):
            client.prepare([message(topic, "refused")], tx=tx)
        commits.release()
        other.prepare([message(topic, "stored")], tx=tx)
        client.confirm(tx)
        assert sink.wait_for(tx)[0].body == b"stored", "a body that is not stored was sent"
    finally:
        other.close()
        second.stop()


def test_one_commit_at_a_time(client, commits, topic, sink, pool):
    """While a commit is under way the lane collects, and commits nothing else: a reader of its log would pass the gap."""
    first, second = uuid7(), uuid7()
    commits.hold(first)
    a = pool.submit(client.publish, [message(topic)], tx=first)
    commits.wait_held()
    b = pool.submit(client.publish, [message(topic)], tx=second)
    third = publish_request([message(topic)], tx=uuid7())
    with pytest.raises(grpc.RpcError) as caught: # its deadline is what ends the wait for something that must not happen
        client.messages.Publish(third, timeout=1.5)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert not b.done(), "committed while an earlier batch of its lane was under way"
    commits.release()
    for call, tx in ((a, first), (b, second)):
        assert call.result(timeout=30).state == CONFIRMED
        sink.wait_for(tx)


@pytest.fixture
def behind_proxy(site):
    """A world whose daemon reaches PostgreSQL through a proxy."""
    proxy = Proxy(site.postgres.port)
    made = site.world("given_up", OPTIONS, tcp_port=proxy.port)
    made.proxy = proxy
    try:
        yield made.start()
    finally:
        made.close()
        proxy.close()


def test_given_up_commit_never_comes_true(behind_proxy, pool):
    """The server hangs in a commit and the connection is lost, of which the server does not hear. Whatever it does later, it
    is not this commit: the lane has gone on, so nobody would send what it stores, and a repeat would be told OK."""
    world, client = behind_proxy, behind_proxy.client
    commits, sink = Commits(world), world.sink()
    topic, tx = world.topic(here=sink), uuid7()
    commits.hold(tx)
    with pytest.raises(grpc.RpcError):
        call = pool.submit(client.messages.Publish, publish_request([message(topic)], tx=tx), timeout=2)
        commits.wait_held()
        call.result() # its caller has gone; nobody runs it again
    world.proxy.abandon()
    marker = uuid7()
    wait_until(lambda: accepted(client, topic, marker), 30, "the lane has found out and goes on")
    commits.release()
    sink.wait_for(marker)
    assert client.publish([message(topic)], tx=tx).state == CONFIRMED
    sink.wait_for(tx)


def accepted(client, topic, tx):
    try:
        return client.publish([message(topic)], tx=tx)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        return None


def test_keys_are_taken_in_order(world, client, topic, pool):
    """A lane that waits for a key holds none that is greater: two lanes with the same ids never wait in a circle."""
    rival = psycopg2.connect(world.dsn)
    insert = "INSERT INTO message (tx, n, total, delay_class, check_after, producer) VALUES (%s, 0, 1, 0, 1000, 'rival')"
    try:
        for _ in range(5):
            ids = sorted(uuid7() for _ in range(20))
            with rival.cursor() as sql:
                sql.execute("SET LOCAL lock_timeout = '500ms'")
                sql.execute(insert, (ids[0],))
                call = pool.submit(client.batch, [publish_request([message(topic)], tx=tx) for tx in reversed(ids)])
                wait_until(lambda: waiting(world, "txmsg-lane-%"), 20, "the lane waits for the first id")
                one_batch = not world.sql("SELECT 1 FROM message WHERE tx = %s", ids[-1])
                if one_batch:
                    sql.execute(insert, (ids[-1],))
            rival.rollback()
            assert {result_state(r) for r in call.result(timeout=30)} == {CONFIRMED}
            if one_batch:
                return
        raise AssertionError("the operations never went into one batch")
    finally:
        rival.close()


# --- the fence ---


def test_sealed_lane_takes_nothing_more(world, client, topic, sink):
    """Somebody seals the lane of a daemon that lives: not one entry, and not one decision, goes into it any more."""
    client.publish([message(topic)], tx=uuid7())
    lane = world.sql("SELECT lane FROM lane WHERE state = 'open'")[0][0]

    def sealed(): # an entry may come in between
        try:
            return world.sql("INSERT INTO lane_log (lane, seq, kind, nonce) SELECT lane, max(seq) + 1, 'S', 0 "
                             "FROM lane_log WHERE lane = %s GROUP BY lane RETURNING seq", lane)[0][0]
        except psycopg2.errors.UniqueViolation:
            return None

    seal = wait_until(sealed, 10, "a seal is written")
    ids = [client.publish([message(topic)], tx=uuid7()).transaction_id for _ in range(3)]
    for tx in ids:
        sink.wait_for(tx)
    for tx in ids:
        own, listed = world.sql("SELECT (d.lane, d.seq)::text, (SELECT array_agg((g.lane, g.seq)::text) FROM lane_log g "
                                "WHERE d.tx = ANY (g.conf)) FROM decision d WHERE d.tx = %s", tx)[0]
        assert listed == [own], "a decision that its entry does not list"
    behind = world.sql("SELECT seq, kind FROM lane_log WHERE lane = %s AND seq >= %s", lane, seal)
    assert behind == [(seal, "S")], "entries behind the seal"
