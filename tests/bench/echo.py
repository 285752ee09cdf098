"""Figures to look up to: gRPC without a store, and PostgreSQL without a service."""

from bench.loads import Load


def timing(place):
    return [f"--seconds={place.options.seconds:g}", f"--warmup={place.options.warmup:g}", "--json", "--phases"]


def run(place, name, *arguments):
    place.postgres.psql("CHECKPOINT")
    command = [place.options.build / "tests/bench" / name, *timing(place), *arguments]
    return Load(command, place.service().snapshot).finish()


def echo(*arguments):
    def measure(place):
        result = run(place, "txmsg-bench", f"--server=127.0.0.1:{place.echo_port}", *arguments)
        result.pop("wal_bytes")
        return {**result, "server": "echo"}
    return measure


def insert(place):
    return {**run(place, "bench-insert", f"--dsn={place.postgres.dsn('plain')}"), "server": None}
