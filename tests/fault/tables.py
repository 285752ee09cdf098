"""The tables at rest: when nothing is left to do, and their copy for the checker."""

import contextlib
import json

import psycopg2

# One line per row in tables/NAME.jsonl; times are seconds since 1970.
COPIES = {
    "message": "SELECT tx::text AS tx, n, total, producer, topic, business_key, check_after, extract(epoch FROM at)::float8 AS at, "
               "CASE WHEN total > 0 THEN encode(sha256(body || '\\x00'::bytea || convert_to(headers::json->>'x-variant', 'UTF8')), "
               "'hex') END AS sha FROM message",
    "decision": "SELECT tx::text AS tx, verdict, origin, producer, lane, seq, extract(epoch FROM at)::float8 AS at FROM decision",
    "lane_log": "SELECT lane, seq, kind::text AS kind, extract(epoch FROM at)::float8 AS at, prep::text[] AS prep, "
                "conf::text[] AS conf, cnt, sub_cnt, prog FROM lane_log ORDER BY lane, seq",
    "lane": "SELECT lane, run::text AS run, state FROM lane",
    "worker": "SELECT run::text AS run FROM worker",
    "subscription": "SELECT id, name, spec->>'topic' AS topic, state FROM subscription",
    "check_due": "SELECT tx::text AS tx, producer, tries, unknowns, failures, state FROM check_due",
    "delivery_due": "SELECT sub, tx::text AS tx, n, attempt FROM delivery_due",
    "dead_letter": "SELECT sub, tx::text AS tx, n, attempts, error, "
                   "encode(sha256(body || '\\x00'::bytea || convert_to(headers::json->>'x-variant', 'UTF8')), 'hex') AS sha "
                   "FROM dead_letter",
    "told": "SELECT tx::text AS tx, headers::json->>'txmsg-outcome' AS outcome, headers::json->>'txmsg-outcome-id' AS m, "
            "headers::json->>'txmsg-outcome-subscription' AS sub FROM message WHERE producer = 'txmsg'",
    "attempt": "SELECT sub, tx::text AS tx, n, attempt, extract(epoch FROM at)::float8 AS at, error FROM attempt "
               "WHERE class IS DISTINCT FROM 'ok'",
}

# Each answers rows that say what is not at rest yet. `healthy`: leaves out what waits for those that answer nothing.
UNDELIVERED = """
WITH due AS (SELECT topic, count(*) AS n FROM message m JOIN decision d USING (tx) WHERE d.verdict = 1 AND m.total > 0 GROUP BY 1),
ended AS (SELECT c[i] AS sub, sum(c[i + 1]) AS delivered, sum(c[i + 2]) AS dead, sum(c[i + 3]) AS discarded
          FROM (SELECT sub_cnt AS c FROM lane_log WHERE sub_cnt IS NOT NULL) l, generate_series(1, array_length(c, 1), 5) i
          GROUP BY 1)
SELECT s.name, due.n AS confirmed, e.delivered, e.dead, e.discarded FROM subscription s JOIN due ON due.topic = s.spec->>'topic'
LEFT JOIN ended e ON e.sub = s.id
WHERE due.n IS DISTINCT FROM e.delivered + e.dead + e.discarded AND s.name <> ALL (%(without)s)
"""
DUE = """SELECT s.name, count(*) AS due FROM delivery_due d JOIN subscription s ON s.id = d.sub
WHERE s.name <> ALL (%(without)s) GROUP BY 1"""
UNDECIDED = """SELECT m.producer, count(*) AS undecided, min(m.tx::text) AS oldest FROM message m
LEFT JOIN decision d USING (tx) LEFT JOIN check_due c USING (tx)
WHERE m.n = 0 AND m.total > 0 AND d.tx IS NULL AND coalesce(c.state, 0) <> 1 AND m.producer <> ALL (%(producers)s) GROUP BY 1"""
CHECKS = "SELECT d.producer, count(*) AS check_rows_of_decided FROM check_due JOIN decision d USING (tx) GROUP BY 1"
LANES = """SELECT l.state, count(*) AS lanes, min(lane) AS lane FROM lane l WHERE l.state <> 'drained'
AND NOT (l.state = 'open' AND l.run IN (SELECT run FROM worker)) GROUP BY 1"""
OUTBOX = "SELECT count(*) AS not_published FROM outbox HAVING count(*) > 0"
OPEN = "SELECT count(*) AS open_lanes FROM lane WHERE state = 'open' HAVING count(*) <> %(replicas)s"


class Tables:
    def __init__(self, dsn):
        self.dsn = dsn

    @contextlib.contextmanager
    def cursor(self):
        with contextlib.closing(psycopg2.connect(self.dsn, connect_timeout=5)) as db:
            db.autocommit = True
            with db.cursor() as cursor:
                yield cursor

    def sql(self, query, arguments=None):
        with self.cursor() as cursor:
            cursor.execute(query, arguments)
            return [{c.name: value if isinstance(value, (str, int, type(None))) else str(value)
                     for c, value in zip(cursor.description, row)} for row in cursor.fetchall()]

    def unrest(self, replicas, without=(), producers=()):
        """What still has to happen, as a list of rows; nothing: all is at rest. With `without`, only that what is healthy has got
        its messages and verdicts."""
        arguments = {"without": list(without), "producers": list(producers), "replicas": replicas}
        queries = [UNDELIVERED, DUE, UNDECIDED] if without else [UNDELIVERED, DUE, UNDECIDED, LANES, OPEN, CHECKS, OUTBOX]
        try:
            return [row for query in queries for row in self.sql(query, arguments)]
        except psycopg2.Error as error:
            return [{"error": str(error)}]

    def copy(self, directory):
        directory.mkdir()
        for name, query in COPIES.items():
            with self.cursor() as cursor, open(directory / f"{name}.jsonl", "w", encoding="utf-8") as file:
                cursor.execute(query)
                names = [c.name for c in cursor.description]
                while rows := cursor.fetchmany(5000):
                    for row in rows:
                        file.write(json.dumps(dict(zip(names, row)), separators=(",", ":")) + "\n")
