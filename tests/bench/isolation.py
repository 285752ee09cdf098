"""Bad consumers beside a healthy one, and a consumer that was dead for long."""

import json
import urllib.request

from servers.process import free_port, wait_until

from bench.backlog import publish
from bench.loads import LOADED_MIB, Sampler, between, load, value
from bench.place import TOPOLOGY, pause, say

KINDS = {"hole": "10s", "slow": "60s", "flap": "10s", "drip": "10s"} # path of bench-sink, and time-out of the subscription
CONCURRENCY = 256 # the default of a subscription
SPILL = 10000 # forward.spill_limit


def subscription(name, port, path, **more):
    return {"name": name, "topic": "bench", "sink": {"http": {"url": f"http://127.0.0.1:{port}/{path}", **more}},
            "retry": {"max": "5s"}}


def counts(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/counts", timeout=10) as answer:
        return json.load(answer)


def phase(service, seconds, rate):
    """Accepted and delivered to the healthy one, a second, and how far it was behind at most."""
    running = load(service, ["--callers=256", *([f"--rate={rate}"] if rate else [])], seconds=seconds)
    running.wait_measuring()
    with Sampler(0.25, accepted=service.decided, delivered=service.delivered, mib=service.resident) as sampler:
        result = running.finish()
        sampler.take()
    service.book(result["total"], result["errors"])
    service.settle(300)
    begin, end = (m["time"] for m in running.moments)
    delivered = sampler.rate("delivered", begin, end)
    behind = max(r["accepted"] - r["delivered"] for r in sampler.rows)
    return {**result, "accepted_per_second": round(sampler.rate("accepted", begin, end), 1),
            "per_second": round(delivered, 1), "behind": int(behind), "server_mib": round(max(sampler.values("mib")), 1)}


def isolation(place):
    """A load at a given rate, below what the machine can do: what is lost then is not lost for want of CPU. First the
    healthy subscription alone, then beside each kind of bad one."""
    options = place.options
    _, healthy = place.tool("bench-sink")
    bad, port = place.tool("bench-sink", "--slow=30s")
    alone_topology = {**TOPOLOGY, "subscriptions": [subscription("bench", healthy, "ok")]}
    service = place.service("isolation", topology=alone_topology)
    alone = phase(service, options.phase, options.rate)
    result, values, phases = alone, {}, {"alone": report(alone)}
    for kind, timeout in KINDS.items():
        both = [*alone_topology["subscriptions"], subscription(f"bad-{kind}", port, kind, timeout=timeout)]
        service.apply({**TOPOLOGY, "subscriptions": both})
        before = counts(port)[kind]["requests"]
        beside = phase(service, options.phase, options.rate)
        beside["bad_requests"] = counts(port)[kind]["requests"] - before
        service.ctl.apply(alone_topology, "--prune", "--yes")
        say(f"isolation: {beside['per_second']:.0f} a second beside {kind}, {alone['per_second']:.0f} alone; "
            f"{beside['bad_requests']} requests to it")
        phases[kind] = report(beside)
        values[kind] = value(round(beside["per_second"] / alone["per_second"], 3), 0.95)
    return {**result, "phases": phases, "values": values}


def report(result):
    wanted = ("per_second", "accepted_per_second", "behind", "bad_requests", "server_mib", "cpu_us", "wal_bytes")
    return {name: result[name] for name in wanted if name in result}


# --- a consumer that was dead

CHANGES = ("SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables "
           "WHERE relname IN ('delivery_due', 'dead_letter', 'attempt', 'message', 'decision')")


def changes(service):
    """Rows that were written, as far as sessions have told: they do at most a second later."""
    pause(1.5)
    return int(service.session.ask(CHANGES))


def dead_backlog(place):
    """A subscription whose consumer refuses connections, beside one that delivers; then the consumer comes up."""
    options, port = place.options, free_port()
    dead = subscription("dead", port, "ok")
    service = place.service("dead", topology={**TOPOLOGY, "subscriptions": [*TOPOLOGY["subscriptions"], dead]})
    start = service.resident()
    with Sampler(options.sample, mib=service.resident) as sampler:
        waiting = publish(service, options.backlog)["total"]["published"]
        service.settle(300)
        sampler.take()
    mib = sampler.values("mib")
    quiet = changes(service)
    a = service.snapshot()
    pause(options.seconds)
    b = service.snapshot()
    seconds = b["time"] - a["time"]
    churn = (changes(service) - quiet) / (seconds + 1.5)
    spilled = int(service.session.ask("SELECT count(*) FROM delivery_due"))
    place.tool("bench-sink", f"--listen=127.0.0.1:{port}")
    begin = service.snapshot()
    with Sampler(min(options.sample, 0.25), delivered=lambda: service.delivered("dead"), mib=service.resident) as drain:
        wait_until(lambda: service.delivered("dead") >= waiting, 300 + waiting / 200,
                   "what waited for the consumer is delivered", alive=service.alive, interval=0.1)
        end = service.snapshot()
    seen = counts(port)["ok"]
    first = next(r["time"] for r in drain.rows if r["delivered"] > 0)
    result = rates(begin, end, waiting)
    result |= {"first_after_seconds": round(first - begin["time"], 2), "spilled_rows": spilled, "start_mib": round(start, 1),
               "requests": seen["requests"], "connections_max": seen["connections_max"],
               "quiet_wal_bytes_per_second": round((b["wal"] - a["wal"]) / seconds)}
    result["values"] = {
        "spilled": value(spilled, SPILL, True),
        "changes_per_second": value(round(churn, 1), 100, True),
        "loaded_mib": value(round(max(mib + drain.values("mib")), 1), LOADED_MIB, True),
        "connections": value(seen["connections_max"], CONCURRENCY, True),
        "requests_each": value(round(seen["requests"] / waiting, 4), 1.01, True)}
    return result


def rates(begin, end, messages):
    per_second = messages / (end["time"] - begin["time"])
    return {"per_second": round(per_second, 1), **between(begin, end, per_second)}
