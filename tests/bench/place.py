"""Where figures are measured: one private PostgreSQL, and in it a service for each kind of database that figures need."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from servers.postgres import BIN, Postgres
from servers.process import Process, ServerError, base_directory, wait_until
from servers.txmsgd import Ctl, Txmsgd, clean_environment

from bench import kernel

SETTINGS = {"fsync": "on", "synchronous_commit": "on", "shared_buffers": "512MB", "max_wal_size": "4GB"}
TOPOLOGY = {"topics": [{"name": "bench"}], "producers": [{"name": "bench"}],
            "subscriptions": [{"name": "bench", "topic": "bench", "sink": {"discard": {}}}]}


def say(text):
    print(text, file=sys.stderr, flush=True)


def pause(seconds):
    """A measured time goes by."""
    threading.Event().wait(seconds)


class Session:
    """One psql that stays connected, so that asking costs next to nothing. Any thread."""

    def __init__(self, dsn):
        self.lock = threading.Lock()
        self.psql = subprocess.Popen([BIN / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", dsn], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True)

    def tell(self, sql):
        """For a statement without an answer."""
        with self.lock:
            self.psql.stdin.write(sql + ";\n")
            self.psql.stdin.flush()

    def ask(self, sql):
        """The one line that the query answers."""
        with self.lock:
            self.psql.stdin.write(sql + ";\n")
            self.psql.stdin.flush()
            answer = self.psql.stdout.readline()
        if not answer:
            raise ServerError(f"the database did not answer: {sql}")
        return answer.strip()

    def close(self):
        self.psql.stdin.close()
        self.psql.wait(60)


class Place:
    """PostgreSQL, the tools, and the services that were asked for."""

    def __init__(self, options):
        self.options = options
        self.closing, self.services, self.checks = [], {}, {}
        place = os.environ.get("TMPDIR")
        if place:
            place = tempfile.mkdtemp(prefix="txmsg-bench-", dir=place)
            os.chmod(place, 0o755)
        self.base = base_directory(place)
        self.closing.append(lambda: shutil.rmtree(self.base, ignore_errors=True))

    def start(self):
        self.postgres = Postgres(self.base / "postgres", {**SETTINGS, **self.options.pg})
        self.closing.append(self.postgres.close)
        self.postgres.start()
        self.postgres.create_database("plain")
        self.session = Session(self.postgres.dsn("postgres"))
        self.closing.append(self.session.close)
        self.echo, self.echo_port = self.tool("bench-echo")
        self.sync_ms = kernel.sync_time(self.base)
        return self

    def tool(self, name, *arguments):
        """Starts a server of ours: its process, and the port that it says."""
        log = self.base / f"{name}-{len(self.closing)}.log"
        process = Process(name, [self.options.build / "tests/bench" / name, *arguments], log, env=clean_environment())
        self.closing.append(lambda: process.stop(10))
        found = wait_until(lambda: re.search(r"listening (\d+)", log.read_text(encoding="utf-8")), 10,
                           f"{name} listens", alive=process.check_alive)
        return process, int(found[1])

    def service(self, name="usual", **made):
        """The service of this name, made at its first use."""
        if name not in self.services:
            service = self.services[name] = Service(self, name, **made)
            self.closing.append(service.close)
            service.start()
        return self.services[name]

    def retire(self, names):
        """Checks services that are needed no more and ends them: each has connections and files."""
        for name in names:
            service = self.services.pop(name)
            self.checks[name] = service.check()
            service.close()
            self.postgres.psql(f'DROP DATABASE "{name}" WITH (FORCE)')

    def close(self):
        for step in reversed(self.closing):
            try:
                step()
            except (ServerError, OSError, subprocess.SubprocessError) as error:
                say(f"at the end: {error}")


class Service:
    """One database with its replicas of txmsgd, and what was sent to it. `fill(service)` is called with the schema made and
    before anybody runs on it."""

    def __init__(self, place, name, options=None, width=None, topology=None, fill=None):
        self.place, self.name, self.width, self.fill = place, name, width, fill
        self.options = {**(options or {}), **place.options.set}
        self.topology = topology or TOPOLOGY
        self.dsn = place.postgres.dsn(name)
        self.replicas, self.session = [], None
        self.confirmed = self.prepared = self.cancelled = self.undecided = self.failed = 0
        self.deliveries = 0 # by replicas that have ended

    def start(self):
        self.place.postgres.create_database(self.name)
        self.session = Session(self.dsn)
        width = ["--partition-seconds", self.width] if self.width else []
        Ctl(self.place.options.build, dsn=self.dsn)("migrate", "up", *width)
        if self.fill:
            self.fill(self)
        self.add_replica()
        self.apply(self.topology)
        self.base = self.stats()

    def script(self, sql):
        """SQL of any length and duration, one statement after the other."""
        subprocess.run([BIN / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", self.dsn], text=True, check=True,
                       input=f"SET client_min_messages = warning;\n{sql}", stdout=subprocess.DEVNULL)

    def add_replica(self):
        name = f"txmsgd-{self.name}-{len(self.replicas)}"
        daemon = Txmsgd(self.place.options.build, self.place.base / name, self.dsn, self.options, name)
        self.replicas.append(daemon)
        daemon.start()
        return daemon

    def stop_replica(self):
        """The last one, in order."""
        daemon = self.replicas.pop()
        self.deliveries += attempts(daemon, "bench", "ok")
        daemon.close()

    @property
    def txmsgd(self):
        return self.replicas[0]

    @property
    def target(self):
        return ",".join(daemon.grpc for daemon in self.replicas)

    @property
    def ctl(self):
        return Ctl(self.place.options.build, server=self.txmsgd.grpc)

    def apply(self, topology):
        """And waits until every worker follows it."""
        self.ctl.apply(topology)
        wait_until(lambda: self.session.ask(
            "SELECT bool_and(w.epoch >= (SELECT epoch FROM cfg)) FROM lane l JOIN worker w USING (run) "
            "WHERE l.state = 'open'") == "t", 20, "every worker has the topology")

    def close(self):
        while self.replicas:
            self.replicas.pop().close()
        if self.session:
            self.session.close()
            self.session = None

    def alive(self):
        for daemon in self.replicas:
            daemon.process.check_alive()

    def metric(self, name):
        """The sum over the replicas of one line of /metrics."""
        return sum(metric(daemon, name) for daemon in self.replicas)

    def delivered(self, subscription="bench"):
        own = self.deliveries if subscription == "bench" else 0
        return own + sum(attempts(daemon, subscription, "ok") for daemon in self.replicas)

    def decided(self, origin="rpc"):
        return int(sum(self.metric(f'txmsg_decisions_total{{decision="{d}",origin="{origin}"}}')
                       for d in ("COMMITTED", "ROLLED_BACK")))

    def resident(self):
        return max(kernel.resident(daemon.process.pid) for daemon in self.replicas)

    def stats(self):
        """The exact counters of the store."""
        return json.loads(self.ctl("--json", "stats"))

    def stat(self, name, subscription=None):
        """One of them, without what stood there before we began."""
        def of(stats):
            rows = [s for s in stats.get("subscriptions", []) if s["subscription"] == subscription] if subscription else [stats]
            return int(rows[0].get(name, 0)) if rows else 0
        return of(self.stats()) - of(self.base)

    def snapshot(self, client=0):
        """Everything that is counted, at one moment. The client is not reaped yet: it can be read even if it ended."""
        place = self.place
        ticks = {"client": kernel.process_ticks(client)[0],
                 "txmsgd": sum(kernel.process_ticks(d.process.pid)[0] for d in self.replicas),
                 "echo": kernel.process_ticks(place.echo.pid)[0],
                 "postgres": kernel.tree_ticks(place.postgres.process.pid)}
        busy, idle = kernel.machine_ticks()
        ticks["rest"] = busy - sum(ticks.values())
        high, low = self.session.ask("SELECT pg_current_wal_insert_lsn()").split("/")
        return {"time": time.monotonic(), "ticks": ticks, "busy": busy, "idle": idle,
                "wal": (int(high, 16) << 32) + int(low, 16)}

    # --- what must have come of it

    def book(self, total, errors):
        """Notes what a load tool was answered."""
        self.prepared += total["prepared"] + total["published"]
        self.confirmed += total["confirmed"] + total["published"] + total["undecided_commit"]
        self.cancelled += total["cancelled"] + total["undecided"] - total["undecided_commit"]
        self.undecided += total["undecided"]
        self.failed += sum(errors.values())

    def settle(self, timeout=120):
        """Waits until what was left open is decided and what was confirmed is delivered, so that no run pays for the one
        before. Answers the two times in seconds."""
        begin = time.monotonic()
        wait_until(lambda: self.decided("check") >= self.undecided, timeout,
                   f"{self.undecided} transactions are decided by checks", alive=self.alive)
        middle = time.monotonic()
        wait_until(lambda: self.delivered() >= self.confirmed, timeout,
                   f"{self.confirmed} messages are delivered ({self.delivered()})", alive=self.alive)
        return middle - begin, time.monotonic() - middle

    def check(self):
        """What was answered OK is stored and delivered, each once, and what was left open is decided as its endpoint says.
        Calls that failed may have been done all the same. Counters are the store's own, exact and transactional."""
        found = {name: self.stat(name) for name in ("prepared", "confirmed", "cancelled")}
        pairs = [(getattr(self, name), found[name]) for name in found]
        found["delivered"] = self.stat("delivered", "bench")
        pairs.append((self.confirmed, found["delivered"]))
        found["answered"] = {"prepared": self.prepared, "confirmed": self.confirmed, "cancelled": self.cancelled}
        found["failed_calls"] = self.failed
        found["possible_duplicates"] = int(self.metric("txmsg_possible_duplicates_total"))
        if self.undecided:
            found |= {"undecided": self.undecided, "decided_by_checks": self.decided("check"),
                      "unexpected_checks": int(self.metric('txmsg_checks_total{producer="checked",result="unknown"}'))}
            pairs.append((self.undecided, found["decided_by_checks"]))
        if not self.width and not self.fill: # the rows themselves
            rows = list(map(int, self.session.ask(
                "SELECT (SELECT count(*) FROM message WHERE n = 0 AND total > 0), count(*) FILTER (WHERE verdict = 1), "
                "count(*) FILTER (WHERE verdict = 2), count(*) FILTER (WHERE origin = 2) FROM decision").split("|")))
            found["rows"] = dict(zip(("prepared", "confirmed", "cancelled", "by_checks"), rows))
            pairs += zip((self.prepared, self.confirmed, self.cancelled, self.undecided), rows)
        lost = any(there < wanted for wanted, there in pairs)
        extra = any(there > wanted for wanted, there in pairs)
        found["ok"] = not lost and (not extra or self.failed > 0)
        return found


def metric(daemon, name):
    """The value of one line of /metrics, 0 if it is not there."""
    status, text = daemon.get("/metrics")
    if status != 200:
        raise ServerError(f"/metrics: {status} {text}")
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
    return float(found[1]) if found else 0.0


def attempts(daemon, subscription, result):
    return int(metric(daemon, f'txmsg_attempts_total{{subscription="{subscription}",result="{result}"}}'))
