"""The same load over two replicas."""

from bench.loads import run, value

ARGUMENTS = ["--callers=256", "--channels=2"]


def two_replicas(place):
    """Both connections to one replica, then one to each of two: the tool and its connections are the same."""
    service = place.service("replicas")
    alone = run(service, ARGUMENTS)
    service.add_replica()
    try:
        result = run(service, ARGUMENTS)
    finally:
        service.stop_replica()
    result |= {"alone": alone["per_second"], "alone_cpu_us": alone["cpu_us"]}
    result["values"] = {"ratio": value(round(result["per_second"] / alone["per_second"], 3), 0.90)}
    return result
