"""What a long history costs. It is loaded by SQL, in the layout that the service itself would have left: a week of daily
partitions with messages, decisions and log entries of a lane a day, all delivered, vacuumed and analyzed."""

import datetime
import time

from bench.loads import run, value
from bench.place import say

CALLERS = "--callers=256"
DAYS, DAY_MS = 7, 86400000
IN_ENTRY = 220 # messages prepared and confirmed in one entry: 440 ids, as many as it may have

PARTITION = """CREATE TABLE IF NOT EXISTS {parent}_p{number} (LIKE {parent} INCLUDING ALL) WITH (fillfactor = 100{more});
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = '{parent}_p{number}'::regclass) THEN
ALTER TABLE {parent} ATTACH PARTITION {parent}_p{number} FOR VALUES FROM ({low}) TO ({high}); END IF; END $$;
"""
# An id has its time, then digits that are a digest of its number: random enough, and the same for all three tables.
IDS = """DROP TABLE IF EXISTS bench_id;
CREATE UNLOGGED TABLE bench_id AS SELECT i, (lpad(to_hex({from_ms} + i * {step_us} / 1000), 12, '0') || '7' ||
 substr(m, 1, 3) || '8' || substr(m, 4, 15))::uuid AS tx, {from_ms} + i * {step_us} / 1000 AS ms, m
 FROM (SELECT i, md5(i || ' {day}') AS m FROM generate_series(0, {count} - 1) i) t;
"""
ROWS = """INSERT INTO message (tx, n, total, delay_class, check_after, at, producer, topic, digest, body)
 SELECT tx, 0, 1, 1, 10000, to_timestamp(ms / 1000.0), 'bench', 'bench', sha256(m::bytea), decode(repeat(m, 64), 'hex')
 FROM bench_id ORDER BY i;
INSERT INTO decision (tx, verdict, origin, producer, lane, seq, at)
 SELECT tx, 1, 1, 'bench', {lane}, 1 + i / {each}, to_timestamp(ms / 1000.0) FROM bench_id ORDER BY i;
INSERT INTO lane_log (lane, seq, kind, nonce, at, classes, prep, conf, cnt)
 SELECT {lane}, 1 + i / {each}, 'D', i / {each}, to_timestamp(min(ms) / 1000.0), 2, array_agg(tx ORDER BY i),
 array_agg(tx ORDER BY i), ARRAY[count(*), count(*), 0, 0]::int[] FROM bench_id GROUP BY i / {each} ORDER BY 2;
INSERT INTO lane VALUES ({lane}, '00000000-0000-0000-0000-000000000000', 'drained');
INSERT INTO lane_stat SELECT lane, max(seq) FROM lane_log WHERE lane = {lane} GROUP BY 1;
INSERT INTO stat (sub, prepared, confirmed) VALUES (0, {count}, {count});
DROP TABLE bench_id;
"""


def floor(ms):
    """The smallest id of a moment."""
    digits = f"{ms:012x}" + 20 * "0"
    return f"'{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}'"


def partitions(period, number):
    wide = ", toast_tuple_target = 8160"
    for parent in ("message", "decision"):
        yield PARTITION.format(parent=parent, number=period, more="", low=floor(period * DAY_MS),
                               high=floor((period + 1) * DAY_MS))
    yield PARTITION.format(parent="lane_log", number=number, more=wide, low=number << 14, high=(number + 1) << 14)


def fill(service):
    """Before any replica runs. The latest day is the one that goes on."""
    count, psql = service.place.options.history, service.place.postgres.psql
    begin = time.monotonic()
    now = int(datetime.datetime.now(datetime.timezone.utc).timestamp() * 1000)
    today = now // DAY_MS
    psql(f"UPDATE cfg SET origin = to_timestamp({(today - DAYS + 1) * 86400})", service.name)
    for number in range(DAYS):
        period = today - DAYS + 1 + number
        end = min((period + 1) * DAY_MS, now - 1000)
        day = count * (number + 1) // DAYS - count * number // DAYS
        step_us = (end - period * DAY_MS) * 1000 // max(day, 1)
        sql = "".join(partitions(period, number)) + "SET synchronous_commit = off;\n" + IDS.format(
            from_ms=period * DAY_MS, step_us=f"{step_us}::int8", count=day, day=number) + ROWS.format(
                lane=(number << 14) + 1, each=IN_ENTRY, count=day)
        service.script(sql)
        say(f"history: {count * (number + 1) // DAYS} messages after {time.monotonic() - begin:.0f} s")
    service.script("VACUUM (ANALYZE, FREEZE) message; VACUUM (ANALYZE, FREEZE) decision; VACUUM (ANALYZE, FREEZE) lane_log;")
    psql("CHECKPOINT")


def service(place):
    return place.service("history", fill=fill)


def history(place):
    """One run on each, so that a slow minute of the machine hits both."""
    empty = run(place.service("empty"), [CALLERS])
    result = run(service(place), [CALLERS])
    result |= {"empty": empty["per_second"], "empty_cpu_us": empty["cpu_us"], "messages_before": place.options.history}
    result["values"] = {"ratio": value(round(result["per_second"] / empty["per_second"], 3), 0.90)}
    return result
