"""How fast messages are decided that were left open, when their producer can be asked again."""

from servers.process import wait_until

from bench import history
from bench.loads import Sampler, between, load
from bench.place import say

PRODUCER = "checked"


def producer(port=None):
    check = {"first_after": "1s", "initial": "1s", "max": "1s", "factor": 1, "concurrency": 256}
    if port:
        check["endpoints"] = [f"grpc://127.0.0.1:{port}"]
    return {"producers": [{"name": PRODUCER, "check": check}]}


def recovery(place):
    return drain(place, place.service("recovery"))


def recovery_history(place):
    return drain(place, history.service(place))


def recovery_pull(place):
    return drain(place, place.service("pull"), streams=True)


def drain(place, service, streams=False):
    """They are left open while nobody is there to ask. Then an endpoint is configured that answers all of CheckBatch; or an application
    starts that answers over a stream of Checks, through libtxmsg."""
    count = place.options.recover
    service.apply(producer())
    before = service.decided("check")
    running = load(service, ["--callers=256", "--stream", "--undecided=100", f"--count={count}",
                             f"--producer={PRODUCER}"], warmup=0)
    result = running.finish()
    service.book(result["total"], result["errors"])
    left = result["total"]["undecided"]
    wait_until(lambda: int(service.session.ask("SELECT count(*) FROM check_due")) >= left, 120,
               f"all {left} are due for a check", alive=service.alive, interval=0.5)
    answering, port = (None, None) if streams else place.tool("bench-echo", "--undecided=100")
    place.postgres.psql("CHECKPOINT")
    begin = service.snapshot(answering.pid if answering else 0)
    with Sampler(0.1, decided=lambda: service.decided("check") - before, mib=service.resident) as sampler:
        if streams:
            answering, _ = place.tool("bench-pull", f"--server={service.target}", f"--producer={PRODUCER}", "--undecided=100")
        else:
            service.apply(producer(port))
        wait_until(lambda: service.decided("check") - before >= left, 60 + left / 50, f"{left} are decided by checks",
                   alive=service.alive, interval=0.05)
        end = service.snapshot(answering.pid)
    service.settle()
    service.apply(producer())
    answering.stop(10)
    seconds = end["time"] - begin["time"]
    first = next(r["time"] for r in sampler.rows if r["decided"] > 0)
    say(f"drained {left} in {seconds:.1f} s, the first after {first - begin['time']:.1f} s")
    return {"per_second": round(left / seconds, 1), "seconds": round(seconds, 2), "messages": left,
            "first_after_seconds": round(first - begin["time"], 2), "server_mib": max(sampler.values("mib")),
            "left_open_per_second": result["per_second"], **between(begin, end, left / seconds)}
