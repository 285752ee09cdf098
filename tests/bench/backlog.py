"""A backlog is delivered while the load goes on."""

import time

from servers.process import wait_until

from bench.loads import FOREVER, LOADED_MIB, Sampler, load, run, value

CALLERS = "--callers=32"
NEAR = 2000 # so many open deliveries are those of the load that goes on


def publish(service, count):
    """Confirmed messages, as fast as they can be made."""
    result = load(service, ["--callers=1024", "--stream", "--publish", f"--count={count}"], warmup=0).finish()
    service.book(result["total"], result["errors"])
    return result


def backlog_drain(place):
    options, service = place.options, place.service("backlog")
    alone = run(service, [CALLERS])
    service.ctl("pause", "bench", "--reason", "a backlog is made")
    publish(service, options.backlog)
    paused = service.resident()
    place.postgres.psql("CHECKPOINT")
    running = load(service, [CALLERS], seconds=FOREVER)
    running.wait_measuring()
    with Sampler(min(options.sample, 0.25), accepted=service.decided, delivered=service.delivered,
                 mib=service.resident) as sampler:
        begin = time.monotonic()
        service.ctl("resume", "bench")
        wait_until(lambda: service.decided() - service.delivered() < NEAR, 120 + options.backlog / 500,
                   "the backlog is delivered", alive=running.check_alive, interval=0.1)
        end = time.monotonic()
        sampler.take()
    result = running.stop()
    service.book(result["total"], result["errors"])
    service.settle()
    middle = (begin + end) / 2
    first, second = sampler.values("mib", 0, middle), sampler.values("mib", middle)
    accepted = sampler.rate("accepted", begin, end)
    result |= {"alone": alone["per_second"], "per_second": round(accepted, 1), "drain_seconds": round(end - begin, 2),
               "delivered_per_second": round(sampler.rate("delivered", begin, end), 1), "paused_mib": round(paused, 1)}
    result["values"] = {"ratio": value(round(accepted / alone["per_second"], 3), 0.75),
                        "loaded_mib": value(round(max(first + second), 1), LOADED_MIB, True),
                        "mib_growth": value(round(max(second) / max(first), 3), 1.05, True)}
    return result
