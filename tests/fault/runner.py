"""One run: servers, producers, peers, faults for a while, calm, rest, and the verdict of the checker."""

import argparse
import contextlib
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys
import threading
import time

import pika
from harness import BUILD, TOP
from servers.postgres import Postgres
from servers.process import ServerError, base_directory, free_port, wait_until
from servers.rabbit import Rabbit
from servers.txmsgd import Ctl, Txmsgd

from . import checker, content, report
from .disk import Disk
from .history import Recorder
from .keepers import Broker, Database, Replica
from .nemesis import Nemesis, schedule
from .tables import Tables

POSTGRES = {"listen_addresses": "", "max_connections": 200, "shared_buffers": "128MB", "max_wal_size": "256MB",
            "min_wal_size": "64MB", "restart_after_crash": "on"}
CALM = 6        # seconds of load without faults
REST = 120      # seconds within which everything must have come to rest by itself
HEALTHY = 60    # seconds, for what does not depend on anybody who is dead
OPTIONS = {"check.poll": "50ms", "check.find_poll": "50ms", "forward.retry_poll": "50ms", "drain": "10s",
           "lane.queue": "256"} # small: bursts are refused
SAMPLED = re.compile(r"^(txmsg_(?:possible_duplicates|stale_deliveries|lane_takeovers|checks_contrary)_total)\S* (\S+)$", re.M)


class Sampler(threading.Thread):
    """Memory, connections and counters of the replicas, once a second."""

    def __init__(self, run):
        super().__init__(daemon=True)
        self.run_, self.stop = run, threading.Event()
        self.history = Recorder(run.directory, "samples")

    def run(self):
        while not self.stop.wait(1):
            for replica in self.run_.replicas:
                process = replica.daemon.process
                if process:
                    with contextlib.suppress(OSError, TypeError): # it is going away
                        self.sample(replica, process.pid)
            with contextlib.suppress(Exception):
                rows = self.run_.tables.sql("SELECT count(*) AS n FROM pg_stat_activity WHERE backend_type = 'client backend' "
                                            "AND pid <> pg_backend_pid() AND datname = current_database()")
                self.history.fact("connections", n=rows[0]["n"])

    def sample(self, replica, pid):
        status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        fields = {"rss": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024, "threads": int(re.search(r"Threads:\s+(\d+)", status)[1])}
        if not replica.busy:
            code, text = replica.daemon.get("/metrics")
            if code == 200:
                for name, value in SAMPLED.findall(text):
                    fields[name] = fields.get(name, 0) + int(float(value))
        self.history.fact("sample", who=replica.name, pid=pid, **fields)

    def close(self):
        self.stop.set()
        self.join(10)
        self.history.close()


class Child:
    """A process of the cast, told what to do line by line."""

    def __init__(self, name, module, config, directory):
        self.name = name
        path = directory / f"{name}.config"
        path.write_text(json.dumps(config), encoding="utf-8")
        self.log = open(directory / f"{name}.log", "wb")
        self.popen = subprocess.Popen([sys.executable, "-B", "-m", module, path], cwd=TOP / "tests", stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=self.log, text=True)

    def say(self, line):
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def line(self):
        return self.popen.stdout.readline().strip()

    def check_alive(self):
        if self.popen.poll() is not None:
            raise ServerError(f"the {self.name} ended with {self.popen.returncode}, see {self.log.name}")

    def finish(self, timeout):
        self.say("finish")
        out, _ = self.popen.communicate(timeout=timeout)
        if self.popen.returncode != 0:
            raise ServerError(f"the {self.name} ended with {self.popen.returncode}, see {self.log.name}")
        return out

    def close(self):
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        self.log.close()


def sanitized(build):
    """Was this build directory set up with a sanitizer? Then memory is not what it is."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        options = json.loads((build / "meson-info/intro-buildoptions.json").read_text(encoding="utf-8"))
        return {o["name"]: o["value"] for o in options}["b_sanitize"] != "none"
    return False


class Run:
    def __init__(self, options):
        self.o = options
        self.base = base_directory()
        self.directory = self.base / "history"
        self.directory.mkdir(mode=0o755)
        self.closing = contextlib.ExitStack()
        self.without = set(options.without)
        self.disk = self._disk()
        self.history = Recorder(self.directory, "nemesis")
        self.database = self.broker = self.nemesis = None
        self.replicas, self.children = [], []
        (self.directory / "run.json").write_text(json.dumps({
            "seed": options.seed, "replicas": options.replicas, "slow": options.slow, "dead_after": options.dead_after,
            "sanitized": sanitized(options.build)}), encoding="utf-8")

    def say(self, text):
        if not self.o.quiet:
            print(text, flush=True)

    def _disk(self):
        """A file system for PostgreSQL, or None and the reason why not."""
        if "full" in self.without:
            return None
        size = 1200 + int(2 * self.o.rate / 100 * (self.o.seconds or 3 * self.o.kills))
        try:
            disk = Disk(self.base / "postgres", size)
        except (OSError, subprocess.CalledProcessError) as error:
            self.say(f"skipped: the fault `full`: no file system can be mounted here ({error})")
            self.without.add("full")
            return None
        self.closing.callback(disk.close)
        return disk

    # --- the beginning ---

    def start(self):
        postgres = Postgres(self.base / "postgres", POSTGRES)
        postgres.port = free_port()
        self.closing.callback(postgres.close)
        postgres.start()
        self.dsn = postgres.create_database("fault")
        Ctl(self.o.build, dsn=self.dsn)("migrate", "up")
        self.tables = Tables(self.dsn)
        self.database = Database(postgres, "fault", self.history, self.disk)
        rabbit = Rabbit(self.base / "rabbitmq")
        rabbit.port = free_port()
        self.closing.callback(rabbit.close)
        self.broker = Broker(rabbit.start(), self.history)
        self._queues(rabbit.url())
        port = free_port()
        self.targets = [f"127.0.0.1:{free_port()}" for _ in range(self.o.replicas)]
        self.peers = Child("peers", "fault.peers", {"seed": self.o.seed, "directory": str(self.directory), "port": port,
                                                    "rabbit": rabbit.url(), "dead_sink": self.o.dead_sink, "targets": self.targets}, self.directory)
        self.closing.callback(self.peers.close)
        self.children.append(self.peers)
        if self.peers.line() != "listening":
            raise ServerError(f"the peers do not listen, see {self.peers.log.name}")
        self._replicas()
        Ctl(self.o.build, server=self.replicas[0].daemon.grpc).apply(content.topology(f"http://127.0.0.1:{port}", rabbit.url()))
        wait_until(lambda: not self.tables.sql("SELECT 1 AS x FROM worker WHERE epoch < (SELECT epoch FROM cfg)"), 30,
                   "every replica has the topology")

    def _queues(self, url):
        connection = pika.BlockingConnection(pika.URLParameters(url))
        for queue in content.RABBIT.values():
            connection.channel().queue_declare(queue, durable=True)
        connection.close()

    def _replicas(self):
        options = {**OPTIONS, "store.dead_after": f"{self.o.dead_after}s",
                   **dict(item.split("=", 1) for item in self.o.set)}
        for i in range(self.o.replicas):
            daemon = Txmsgd(self.o.build, self.directory, self.dsn, {
                **options, "grpc.listen": self.targets[i], "http.listen": f"127.0.0.1:{free_port()}"}, f"replica{i}")
            self.closing.callback(daemon.kill)
            self.replicas.append(Replica(daemon, self.history))
        for keeper in self.keepers():
            keeper.start()
        self.closing.callback(self.release)
        for replica in self.replicas:
            replica.order("up")
        self.keepers_idle(120)
        for replica in self.replicas:
            replica.daemon.wait_ready(60)

    def keepers(self):
        return [*self.replicas, self.database, self.broker]

    def keepers_idle(self, timeout):
        wait_until(lambda: not any(k.busy for k in self.keepers()), timeout, "every server is back", alive=self.check)

    def check(self):
        """Nothing that the run stands on is broken."""
        for keeper in self.keepers():
            if keeper.broken:
                raise ServerError(keeper.broken)
        for child in self.children:
            child.check_alive()

    # --- the run ---

    def load(self):
        self.history.fact("clock", wall=time.time())
        self.producers = Child("producers", "fault.producers", {
            "seed": self.o.seed, "directory": str(self.directory), "rate": self.o.rate, "callers": self.o.callers,
            "targets": self.targets}, self.directory)
        self.closing.callback(self.producers.close)
        self.children.append(self.producers)
        self.sampler = Sampler(self)
        self.sampler.start()
        self.closing.callback(self.sampler.close)

    def faults(self):
        plan = schedule(self.o.seed, self.o.replicas, self.o.dead_after, self.without)
        self.nemesis = Nemesis(plan, self.replicas, self.database, self.broker)
        begin = said = time.monotonic()
        tick = threading.Event()
        while self.o.seconds and time.monotonic() - begin < self.o.seconds or self.o.kills and self.nemesis.kills() < self.o.kills:
            self.nemesis.step()
            self.check()
            if time.monotonic() - said > 60:
                said = time.monotonic()
                self.say(f"  {said - begin:.0f} s, {self.nemesis.kills()} kills")
            tick.wait(0.05)
        self.keepers_idle(180 * self.o.slow)
        for replica in self.replicas:
            replica.daemon.wait_ready(60 * self.o.slow)

    def calm(self):
        """Load without faults, then rest: first of the healthy ones beside the dead, then of all."""
        self.history.fact("calm")
        for child in (self.peers, self.producers):
            child.say("calm")
        threading.Event().wait(CALM) # this much load is part of the test
        self.children.remove(self.producers)
        self.producers.finish(200)
        self.history.fact("load ends")
        self.rest(HEALTHY, "the healthy are served while others are dead", without=["void"], producers=["ghost"])
        self.history.fact("healthy rest")
        self.peers.say("open")
        self.rest(REST, "everything is at rest")
        self.history.fact("rest")

    def rest(self, timeout, what, **how):
        begin = time.monotonic()
        left = []

        def reached():
            left[:] = self.tables.unrest(self.o.replicas, **how)
            return not left

        try:
            wait_until(reached, timeout * self.o.slow, what, interval=0.5, alive=self.check)
        except ServerError as error:
            self.history.fact("unrest", what=str(error), left=left[:20])
        self.say(f"  {what}: after {time.monotonic() - begin:.1f} s")

    def stop(self):
        self.sampler.close()
        for replica in self.replicas:
            replica.order("stop")
        self.release()
        self.wait_for_queues()
        self.children.clear()
        self.peers.finish(30)
        self.history.fact("clock", wall=time.time())
        self.tables.copy(self.directory / "tables")
        self.history.close()

    def release(self):
        """Nobody brings a server back any more."""
        for keeper in self.keepers():
            keeper.order("hold")
        wait_until(lambda: not any(k.busy for k in self.keepers()), 150, "the keepers let go")

    def wait_for_queues(self):
        """The broker's consumers have everything that was put into their queues."""
        connection = pika.BlockingConnection(pika.URLParameters(self.broker.rabbit.url()))
        channel = connection.channel()
        wait_until(lambda: not any(channel.queue_declare(q, passive=True).method.message_count for q in content.RABBIT.values()),
                   30, "the queues are empty", interval=0.2)
        connection.close()

    def run(self):
        """The verdict: violations (none: all is proven) and figures."""
        with self.closing:
            self.start()
            self.load()
            self.faults()
            self.calm()
            self.stop()
        return checker.check(self.directory)


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(prog="tests/fault/run", description="History test: load, faults, and the proof that nothing "
                                     "was lost, invented or decided twice.")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, help="how long faults come (60)")
    length.add_argument("--kills", type=int, help="until so many kills")
    parser.add_argument("--seed", type=int, help="of load and faults (drawn, and printed)")
    parser.add_argument("--replicas", type=int, default=2, help="of txmsgd (2)")
    parser.add_argument("--rate", type=float, default=60, help="transactions begun in a second, at most (60); each is 2 to 40 calls")
    parser.add_argument("--callers", type=int, default=64, help="transactions under way, at most (64)")
    parser.add_argument("--dead-after", type=float, default=3, help="store.dead_after in seconds (3)")
    parser.add_argument("--build", type=pathlib.Path, default=BUILD, help="build directory (build, or $TXMSG_BUILD)")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="option of txmsgd")
    parser.add_argument("--without", action="append", default=[], metavar="FAULT",
                        help="leave out kill, backends, crash, freeze, terminate, full or rabbit")
    parser.add_argument("--dead-sink", action="store_true", help="one consumer is dead all the time, not every other 30 s")
    parser.add_argument("--slow", type=float, default=1, help="factor on the time to come to rest, for sanitizers (1)")
    parser.add_argument("--keep", action="store_true", help="keep the histories of a run that passed, too")
    parser.add_argument("--check", type=pathlib.Path, metavar="DIR", help="only check the histories in DIR, once more")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args(arguments)
    if not options.seconds and not options.kills:
        options.seconds = 60
    options.build = options.build.resolve()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    return options


def main():
    options = parse_arguments()
    if options.check:
        found, figures = checker.check(options.check)
        return report.show(found, figures, options.check)
    print(f"seed {options.seed}", flush=True)
    run = Run(options)
    try:
        found, figures = run.run()
    except BaseException:
        print(f"histories and logs: {run.directory}", flush=True)
        raise
    code = report.show(found, figures, run.directory)
    if code == 0 and not options.keep:
        shutil.rmtree(run.base, ignore_errors=True)
    else:
        print(f"histories and logs: {run.directory}\nagain: tests/fault/run --seed {options.seed}", flush=True)
    return code
