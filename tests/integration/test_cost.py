"""What a delivered message costs the database: the forwarder walks with cursors, hundreds of messages share a statement."""

import subprocess

import pytest
from harness import BUILD
from harness.peers import HttpSink
from servers.process import wait_until

OPTIONS = {"check.poll": "250ms", "check.find_poll": "250ms", "forward.retry_poll": "200ms"} # the defaults
ACCEPTING = ("INSERT INTO lane_log", "INSERT INTO message", "INSERT INTO decision") # the group commits of the acceptance
IN_FLIGHT = 256
MESSAGES = 20000


@pytest.fixture(scope="module")
def statistics(site, world):
    world.sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    def calls():
        """Statements executed in this database so far, by the text of the statement; not those of this test."""
        return dict(world.sql(
            "SELECT query, sum(calls)::bigint FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid "
            "WHERE datname = current_database() AND query NOT LIKE '%%pg_stat_statements%%' AND toplevel GROUP BY query"))

    return calls


def load(world, topic, count):
    """Prepare and Confirm of `count` transactions by the load tool, 256 calls in flight."""
    done = subprocess.run([BUILD / "tests/bench/txmsg-bench", f"--server={world.txmsgd.grpc}", f"--callers={IN_FLIGHT}",
                           "--channels=4", f"--count={count}", "--warmup=0", "--producer=shop", f"--topic={topic}"],
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_statements_per_delivered_message(world, statistics):
    topic = world.topic(nowhere={"discard": {}})
    load(world, topic, 1000)
    before, delivered_before = statistics(), delivered(world, topic)
    load(world, topic, MESSAGES)
    wait_until(lambda: delivered(world, topic) >= delivered_before + MESSAGES, 30, "all are delivered")
    spent = {query: calls - before.get(query, 0) for query, calls in statistics().items()}
    forwarding = {query: n for query, n in spent.items() if not query.startswith(ACCEPTING)}
    print(f"{sum(spent.values()) / MESSAGES:.4f} statements for each of {MESSAGES} messages, "
          f"{sum(forwarding.values()) / MESSAGES:.4f} without the group commits")
    for n, query in sorted(((n, q) for q, n in spent.items() if n), reverse=True)[:12]:
        print(f"{n:8} {' '.join(query.split())[:140]}")
    assert sum(forwarding.values()) / MESSAGES < 0.1


def delivered(world, topic):
    """Deliveries that the log counts for this subscription."""
    return world.sql("""
        SELECT coalesce(sum(c.v) FILTER (WHERE (c.i - 1) %% 5 = 1), 0)
        FROM lane_log l CROSS JOIN LATERAL unnest(l.sub_cnt) WITH ORDINALITY AS c(v, i)
        WHERE l.sub_cnt[1] = (SELECT id FROM subscription WHERE name = %s)""", f"{topic}-nowhere")[0][0]


def test_nothing_is_updated_or_deleted_per_message(world):
    """Append-only: on the normal path no row of the partitioned tables is ever changed."""
    sink = HttpSink()
    topic = world.topic(http=sink)
    load(world, topic, 300)
    sink.wait(300)
    sink.close()

    def changes():
        world.sql("SELECT pg_stat_clear_snapshot()")
        return world.sql("SELECT coalesce(sum(n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables "
                         "WHERE relname ~ '^(message|decision|lane_log)'")[0][0]

    wait_until(lambda: world.sql("SELECT sum(n_tup_ins) FROM pg_stat_user_tables WHERE relname ~ '^message'")[0][0] >= 300,
               20, "the statistics are in")
    assert changes() == 0
