"""Plans of the hot statements. A statement that walks a partition costs nothing while it is small and everything at
midnight or under load, so each is planned against empty, filled but never analyzed, and analyzed partitions."""

import json
import re
import subprocess

import psycopg2
import pytest
from harness import BUILD
from servers.txmsgd import clean_environment, daemon_binary

# As the daemon sets them on the connections of lanes (db/README.md).
PINNED = """
SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SET enable_bitmapscan = off; SET enable_material = off; SET enable_memoize = off; SET jit = off;
"""
# Parameters are NULL here, and run-time pruning would leave no partition to look at.
SHOW_ALL = "SET enable_partition_pruning = off"
BIG = re.compile(r"^(message|decision)_p")
ROWS = 20000


def statements():
    """(name, SQL) of what the daemon prepares on its lane and worker connections."""
    printed = subprocess.run([daemon_binary(BUILD), "--print-statements"], capture_output=True, text=True, check=True,
                             env=clean_environment()).stdout
    return [tuple(line.split("\t", 1)) for line in printed.splitlines() if line.strip()]


FILL = """
INSERT INTO message (tx, n, total, delay_class, check_after, producer, topic, digest, body)
SELECT overlay(overlay(gen_random_uuid()::text placing lpad(to_hex(ms / 65536), 8, '0') || '-' || lpad(to_hex(ms %% 65536), 4, '0')
       from 1) placing '7' from 15)::uuid, 0, 1, 1, 10000, 'shop', 'orders', '\\x00', repeat('x', 100)::bytea
FROM (SELECT (extract(epoch FROM now()) * 1000)::bigint - i AS ms FROM generate_series(1, %s) i) t;
INSERT INTO decision (tx, verdict, origin, producer, lane, seq, at) SELECT tx, 1, 1, producer, 1, 1, now() FROM message;
"""


@pytest.fixture(scope="module", params=["empty", "filled", "analyzed"])
def database(site, request):
    """A connection, with partitions in that state."""
    world = site.world(f"plans_{request.param}")
    world.start()
    world.txmsgd.stop()
    db = psycopg2.connect(world.dsn)
    db.autocommit = True
    with db.cursor() as sql:
        if request.param != "empty":
            sql.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relispartition")
            for (table,) in sql.fetchall():
                sql.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
            sql.execute(FILL, (ROWS,))
            sql.execute("SELECT count(*) FROM decision")
            assert sql.fetchone()[0] == ROWS
        if request.param == "analyzed":
            sql.execute("ANALYZE")
        sql.execute(PINNED)
        sql.execute(SHOW_ALL)
    yield db
    db.close()
    world.close()


def nodes(plan):
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def plan_of(db, name, query):
    """The generic plan of a statement, without running it."""
    with db.cursor() as sql:
        sql.execute(f'PREPARE "{name}" AS {query}')
        try:
            sql.execute("SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = %s", (name,))
            count = sql.fetchone()[0]
            arguments = f"({', '.join(['NULL'] * count)})" if count else ""
            sql.execute(f'EXPLAIN (FORMAT JSON, COSTS off) EXECUTE "{name}"{arguments}')
            plan = sql.fetchone()[0]
            return (json.loads(plan) if isinstance(plan, str) else plan)[0].get("Plan", {})
        finally:
            sql.execute(f'DEALLOCATE "{name}"')


def test_there_are_statements():
    names = [name for name, _ in statements()]
    assert len(names) >= 5 and len(set(names)) == len(names)


def test_no_hot_statement_walks_a_partition(database):
    """Every access to a message or decision partition is by its key: an index scan with a condition on tx, and in a join
    an equality with the row of the other side."""
    faults, seen = [], set()
    for name, query in statements():
        if not re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", query, re.I):
            continue
        for node in nodes(plan_of(database, name, query)):
            table = node.get("Relation Name", "")
            if not BIG.match(table) or node["Node Type"] in ("ModifyTable",):
                continue
            seen.add(name)
            condition = node.get("Index Cond", "")
            if node["Node Type"] not in ("Index Scan", "Index Only Scan") or "tx" not in condition:
                faults.append(f"{name}: {node['Node Type']} on {table}, condition {condition or 'none'}")
            elif re.search(r"\bLATERAL\b|\bJOIN\b", query, re.I) and "tx = " not in condition:
                faults.append(f"{name}: {table} is joined by {condition}")
    assert not faults, "\n".join(sorted(set(faults)))
    assert len(seen) >= 5, seen
