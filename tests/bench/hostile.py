#!/usr/bin/python3
"""What hostile HTTP/2 costs a daemon: for each attack of tests/harness/hostile.py the bytes sent, the daemon's CPU and memory,
and what a well-behaved caller felt meanwhile.

    hostile.py PORT PID [--tls] [--seconds S] [--connections N] [ATTACK...]

PID is the daemon's; PORT is its gRPC port, or that of a proxy in front of it."""

import argparse
import multiprocessing
import pathlib
import ssl
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from harness import hostile, http2
from harness.system import cpu_seconds, memory


def tls_of(wanted):
    """A context that trusts anybody, as attackers do."""
    if not wanted:
        return None
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def attack(name, port, until, tls, results):
    sent = connects = 0
    try:
        sender = hostile.ATTACKS[name](port, until, tls_of(tls))
        sent, connects = sender.sent, sender.connects
    finally:
        results.put((sent, connects))


def bystander(port, until, tls):
    """Latencies of health calls, each over a new connection: what a caller feels."""
    times, failed = [], 0
    while time.monotonic() < until:
        begin = time.monotonic()
        try:
            with http2.Connection(port, timeout=10, tls=tls) as c:
                c.send(http2.call(1, hostile.HEALTH, b""))
                c.read_until(http2.HEADERS, 1)
            times.append(time.monotonic() - begin)
        except OSError:
            failed += 1
    return sorted(times), failed


def measure(name, args):
    port = args.port
    results = multiprocessing.Queue()
    before, cpu, begin = memory(args.pid)[0], cpu_seconds(args.pid), time.monotonic()
    until = begin + args.seconds
    attackers = [multiprocessing.Process(target=attack, args=(name, port, until, args.tls, results), daemon=True)
                 for _ in range(args.connections)]
    for a in attackers:
        a.start()
    times, failed = bystander(port, until, tls_of(args.tls))
    cpu = (cpu_seconds(args.pid) - cpu) / (time.monotonic() - begin)
    peak = memory(args.pid)[1]
    got = [results.get(timeout=60) for _ in attackers]
    for a in attackers:
        a.join(10)
    sent, connects = sum(s for s, _ in got), sum(c for _, c in got)
    mib = 1 << 20
    worst = times[-1] * 1000 if times else float("nan")
    median = times[len(times) // 2] * 1000 if times else float("nan")
    print(f"| {name} | {sent / mib / args.seconds:.1f} | {connects} | {cpu * 100:.0f} | {(peak - before) / mib:.0f} | "
          f"{median:.0f} | {worst:.0f} | {failed} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("pid", type=int)
    parser.add_argument("--tls", action="store_true", help="speak TLS")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=", ".join(hostile.ATTACKS))
    args = parser.parse_intermixed_args()
    if unknown := set(args.attacks) - set(hostile.ATTACKS):
        parser.error(f"no such attack: {', '.join(sorted(unknown))}")
    print("| attack | MiB/s sent | connections made | CPU % | memory + MiB | median ms | worst ms | failed |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.attacks or hostile.ATTACKS:
        measure(name, args)


if __name__ == "__main__":
    main()
