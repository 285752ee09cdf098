"""Delivery to real consumers, as fast as acceptance and delivery can go on together."""

from servers.process import ServerError, run as command
from servers.rabbit import BIN, Rabbit

from bench.loads import Sampler, load
from bench.place import TOPOLOGY, say

CALLERS = "--callers=256"
STEADY = 0.98 # of what was accepted, delivered in the same time
TRIES, NARROW = 6, 0.04


def topology(sink):
    return {**TOPOLOGY, "subscriptions": [{"name": "bench", "topic": "bench", "sink": sink}]}


def http(place):
    if "http" not in place.services:
        _, port = place.tool("bench-sink")
        place.service("http", topology=topology({"http": {"url": f"http://127.0.0.1:{port}/ok"}}))
    return steady(place.service("http"))


def rabbitmq(place):
    if "rabbitmq" not in place.services:
        if not (BIN / "rabbitmq-server").exists():
            raise ServerError("forward_rabbitmq: RabbitMQ is not installed")
        broker = Rabbit(place.base / "rabbitmq")
        place.closing.append(broker.close)
        broker.start()
        declare(broker)
        place.service("rabbitmq", topology=topology({"rabbitmq": {"url": broker.url(), "routing_key": "bench"}}))
    return steady(place.service("rabbitmq"))


def declare(broker):
    """A durable queue that keeps the latest 100,000 messages: nobody consumes, and the broker's memory is bounded."""
    arguments = '[{<<"x-max-length">>, long, 100000}]'
    name = 'rabbit_misc:r(<<"/">>, queue, <<"bench">>)'
    command([BIN / "rabbitmqctl", "-q", "eval",
             f'rabbit_amqqueue:declare({name}, true, false, {arguments}, none, <<"bench">>).'],
            user=broker.user, env=broker._environment(), cwd=broker.directory)


def once(service, rate):
    """One run: accepted and delivered a second, within the same time."""
    running = load(service, [CALLERS, *([f"--rate={rate}"] if rate else [])])
    running.wait_measuring()
    with Sampler(0.25, accepted=service.decided, delivered=service.delivered, mib=service.resident) as sampler:
        result = running.finish()
        sampler.take()
    service.book(result["total"], result["errors"])
    service.settle(600)
    begin, end = (m["time"] for m in running.moments)
    return {**result, "rate": rate, "accepted_per_second": round(sampler.rate("accepted", begin, end), 1),
            "delivered_per_second": round(sampler.rate("delivered", begin, end), 1),
            "server_mib": max(sampler.values("mib"))}


def kept(result):
    ok = result["delivered_per_second"] >= STEADY * result["accepted_per_second"]
    say(f"  accepted {result['accepted_per_second']:.0f}, delivered {result['delivered_per_second']:.0f} a second: "
        f"{'steady' if ok else 'it piles up'}")
    return ok


def steady(service):
    """The highest rate at which nothing piles up: without a limit if so, else by a schedule and halving."""
    service.place.postgres.psql("CHECKPOINT")
    tries = [once(service, 0)]
    best = tries[0] if kept(tries[0]) else None
    low, high = tries[0]["delivered_per_second"], tries[0]["accepted_per_second"]
    while not best or (tries[0] is not best and high - low > NARROW * high and len(tries) < TRIES):
        if len(tries) >= 2 * TRIES:
            raise ServerError("no steady rate was found")
        rate = int((low + high) / 2 if best else low)
        tries.append(once(service, rate))
        if kept(tries[-1]):
            best, low = tries[-1], rate
        elif best:
            high = rate
        else:
            low, high = 0.8 * rate, rate
    return {**best, "per_second": best["delivered_per_second"],
            "tries": [{k: t[k] for k in ("rate", "accepted_per_second", "delivered_per_second")} for t in tries]}
