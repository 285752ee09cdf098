"""What a message costs the database: at hundreds in flight its statements are shared by hundreds of messages."""

import concurrent.futures

import pytest
from harness.client import CONFIRMED, message, prepare_request, service_pb2
from harness.ids import uuid7
from harness.peers import HttpSink
from servers.process import wait_until

IN_FLIGHT = 256
MESSAGES = 6000


@pytest.fixture(scope="module")
def statistics(site, world):
    world.sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    def calls():
        """Statements executed in this database so far, by the text of the statement; not those of this test."""
        return dict(world.sql(
            "SELECT query, sum(calls)::bigint FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid "
            "WHERE datname = current_database() AND query NOT LIKE '%%pg_stat_statements%%' AND toplevel GROUP BY query"))

    return calls


def rounds(client, topic, count):
    """Prepare and Confirm of `count` transactions, 256 calls in flight."""
    def one(_):
        tx = uuid7()
        client.messages.Prepare(prepare_request([message(topic, b"x" * 1024)], tx=tx), timeout=60)
        answer = client.messages.Confirm(service_pb2.ConfirmRequest(transaction_id=tx), timeout=60)
        assert answer.status.state == CONFIRMED

    with concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as pool:
        list(pool.map(one, range(count)))


def test_statements_per_delivered_message(world, client, statistics):
    topic = world.topic(nowhere={"discard": {}})
    rounds(client, topic, 500)
    before, delivered_before = statistics(), delivered(world, topic)
    rounds(client, topic, MESSAGES)
    wait_until(lambda: delivered(world, topic) >= delivered_before + MESSAGES, 30, "all are delivered")
    after = statistics()
    spent = {query: calls - before.get(query, 0) for query, calls in after.items()}
    total = sum(spent.values())
    costly = sorted(((n, q) for q, n in spent.items() if n), reverse=True)[:12]
    print(f"{total} statements for {MESSAGES} messages: {total / MESSAGES:.4f} each")
    for n, query in costly:
        print(f"{n:8} {' '.join(query.split())[:140]}")
    assert total / MESSAGES < 0.1


def delivered(world, topic):
    """Deliveries that the log counts for this subscription."""
    return world.sql("""
        SELECT coalesce(sum(c.v) FILTER (WHERE (c.i - 1) %% 5 = 1), 0)
        FROM lane_log l CROSS JOIN LATERAL unnest(l.sub_cnt) WITH ORDINALITY AS c(v, i)
        WHERE l.sub_cnt[1] = (SELECT id FROM subscription WHERE name = %s)""", f"{topic}-nowhere")[0][0]


def test_nothing_is_updated_or_deleted_per_message(world, client):
    """Append-only: on the normal path no row of the partitioned tables is ever changed."""
    sink = HttpSink()
    topic = world.topic(http=sink)
    rounds(client, topic, 300)
    sink.wait(300)
    sink.close()

    def changes():
        world.sql("SELECT pg_stat_clear_snapshot()")
        return world.sql("SELECT coalesce(sum(n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables "
                         "WHERE relname ~ '^(message|decision|lane_log)'")[0][0]

    wait_until(lambda: world.sql("SELECT sum(n_tup_ins) FROM pg_stat_user_tables WHERE relname ~ '^message'")[0][0] >= 300,
               20, "the statistics are in")
    assert changes() == 0
