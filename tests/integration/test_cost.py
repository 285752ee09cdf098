"""What a message costs the database: at hundreds in flight its statements are shared by hundreds of messages."""

import subprocess

import pytest
from harness import BUILD
from harness.peers import HttpSink
from servers.process import wait_until

OPTIONS = {"check.poll": "250ms", "check.find_poll": "250ms", "forward.retry_poll": "200ms"} # the defaults
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
    """The best of three rounds counts: on a busy machine the callers may not keep their calls in flight."""
    topic = world.topic(nowhere={"discard": {}})
    load(world, topic, 1000)
    costs = []
    for _ in range(3):
        before, delivered_before = statistics(), delivered(world, topic)
        load(world, topic, MESSAGES)
        wait_until(lambda start=delivered_before: delivered(world, topic) >= start + MESSAGES, 30, "all are delivered")
        spent = {query: calls - before.get(query, 0) for query, calls in statistics().items()}
        costs.append(sum(spent.values()) / MESSAGES)
        print(f"{costs[-1]:.4f} statements for each of {MESSAGES} messages")
        for n, query in sorted(((n, q) for q, n in spent.items() if n), reverse=True)[:12]:
            print(f"{n:8} {' '.join(query.split())[:140]}")
        if costs[-1] < 0.1:
            break
    assert min(costs) < 0.1


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
