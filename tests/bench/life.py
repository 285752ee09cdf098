"""Long runs: the whole life of messages with retention, and a snapshot that somebody holds."""

import json
import statistics

from servers.process import wait_until

from bench.loads import LOADED_MIB, Sampler, between, load, run, value
from bench.place import Session, pause, say

CALLERS = "--callers=256"
IDLE_MIB = 64


def parts(running, seconds):
    """The measured time cut in ten or more: (the length of a part, its borders)."""
    begin = running.moments[0]["time"]
    part = min(60.0, seconds / 10)
    return part, [begin + i * part for i in range(int(seconds / part + 1e-6) + 1)]


def life_steady(place):
    """A service with narrow partitions and short retention: what is delivered is soon dropped."""
    options = place.options
    width, seconds = options.width, options.minutes * 60
    service = place.service("life", width=width, options={
        "limits.id_past": f"{max(width // 2, 1)}s", "limits.id_future": f"{max(width // 2, 1)}s",
        "store.retention": f"{max(2 * width, 2)}s"})
    idle = service.resident()
    place.postgres.psql("CHECKPOINT")
    begin = service.snapshot()
    running = load(service, [CALLERS], seconds=seconds, warmup=0)
    running.wait_measuring()
    with Sampler(options.sample, accepted=service.decided, delivered=service.delivered, mib=service.resident,
                 pairs=lambda: pairs(service),
                 dropped=lambda: service.metric("txmsg_partitions_dropped_total")) as sampler:
        result = running.finish()
        sampler.take()
    service.book(result["total"], result["errors"])
    service.settle(600)
    stored = service.prepared
    wait_until(lambda: old_messages(service) == 0 and rows(service) < stored, 6 * width + 120,
               "retention has dropped what is old, and some of this run", alive=service.alive, interval=0.5)
    end = service.snapshot()
    part, borders = parts(running, seconds)
    accepted, delivered = ([round(sampler.rate(name, a, b), 1) for a, b in zip(borders, borders[1:])]
                           for name in ("accepted", "delivered"))
    mib = [round(max(sampler.values("mib", a, b + options.sample), default=0), 1)
           for a, b in zip(borders, borders[1:])]
    half = len(mib) // 2
    whole = between(begin, end, stored / (end["time"] - begin["time"]))
    result |= {"part_seconds": part, "accepted_per_part": accepted, "delivered_per_part": delivered,
               "server_mib_per_part": mib, "wal_bytes": whole["wal_bytes"],
               "partition_pairs_most": int(max(sampler.values("pairs"))),
               "partitions_dropped": int(service.metric("txmsg_partitions_dropped_total")),
               "rows_left": rows(service)}
    result["values"] = {
        "last_to_second": value(round(min(accepted[-1] / accepted[1], delivered[-1] / delivered[1]), 3), 0.95),
        "wal_bytes": value(whole["wal_bytes"], 1700, True),
        "idle_mib": value(round(idle, 1), IDLE_MIB, True),
        "loaded_mib": value(max(mib), LOADED_MIB, True),
        "mib_growth": value(round(max(mib[half:]) / max(mib[:half]), 3), 1.05, True)}
    return result


def rows(service):
    return int(service.session.ask("SELECT count(*) FROM message"))


def pairs(service):
    return int(service.session.ask("SELECT count(*) FROM pg_inherits WHERE inhparent = 'message'::regclass"))


def old_messages(service):
    """Partitions that hold something and are older than retention and the two periods it may need to see that."""
    return int(service.session.ask(
        "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid, cfg WHERE i.inhparent = "
        "'message'::regclass AND (substring(c.relname from '_p([0-9]+)$')::int8 + 1 + 4) * cfg.partition_seconds < "
        "extract(epoch FROM now()) AND pg_relation_size(c.oid) > 0"))


# --- a held snapshot

DEAD = ("SELECT coalesce(json_object_agg(parent, dead), '{}') FROM (SELECT i.inhparent::regclass::text AS parent, "
        "sum(n_dead_tup + n_tup_upd + n_tup_del) AS dead FROM pg_stat_user_tables s JOIN pg_inherits i ON i.inhrelid = "
        "s.relid WHERE i.inhparent IN ('message'::regclass, 'decision'::regclass, 'lane_log'::regclass) GROUP BY 1) t")


def held_snapshot(place):
    """First without, then with a repeatable-read transaction that has looked once and does nothing more."""
    options, service = place.options, place.service("held")
    seconds = options.minutes * 60
    before = run(service, [CALLERS], seconds=max(options.seconds, seconds / 10))
    holder = Session(service.dsn)
    try:
        holder.tell("BEGIN ISOLATION LEVEL REPEATABLE READ")
        holder.ask("SELECT count(*) FROM cfg")
        place.postgres.psql("CHECKPOINT")
        running = load(service, [CALLERS], seconds=seconds)
        running.wait_measuring()
        with Sampler(options.sample, accepted=service.decided) as sampler:
            result = running.finish()
            sampler.take()
        service.book(result["total"], result["errors"])
        service.settle()
        held = holder.ask("SELECT extract(epoch FROM clock_timestamp() - now())")
        after = run(service, [CALLERS], seconds=max(options.seconds, seconds / 10))
        pause(1.5) # a session tells what it has done at most a second later
        dead = json.loads(service.session.ask(DEAD))
    finally:
        holder.close()
    part, borders = parts(running, seconds)
    rates = [sampler.rate("accepted", a, b) for a, b in zip(borders, borders[1:])]
    say(f"held_snapshot: {before['per_second']:.0f} without, {after['per_second']:.0f} at the end")
    result |= {"part_seconds": part, "accepted_per_part": [round(r, 1) for r in rates], "held_seconds": float(held),
               "before": before["per_second"], "dead_or_changed": dead}
    result["values"] = {
        "ratio": value(round(result["per_second"] / before["per_second"], 3), 0.84),
        "slowest_part": value(round(min(rates) / before["per_second"], 3), 0.84),
        "at_the_end": value(round(statistics.median(rates[-3:]) / before["per_second"], 3), 0.84),
        "dead_tuples": value(int(sum(dead.values())), 0, True)}
    return result

