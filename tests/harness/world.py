"""The servers of a test session, and the world of one test module: a fresh database, a daemon, peers, a topology."""

import itertools
import re
import shutil

import psycopg2
from servers.postgres import Postgres
from servers.process import ServerError, base_directory, wait_until
from servers.rabbit import Rabbit
from servers.txmsgd import Ctl, Txmsgd

from . import BUILD
from .client import Client
from .peers import CheckEndpoint, HttpSink

# Tests look at what is there within fractions of a second.
FAST = {"check.poll": "50ms", "check.find_poll": "50ms", "forward.retry_poll": "50ms", "drain": "5s"}
POSTGRES = {"shared_preload_libraries": "pg_stat_statements", "max_connections": 300, "shared_buffers": "128MB"}


class Site:
    """One PostgreSQL and, when a test asks for it, one RabbitMQ for the whole session."""

    def __init__(self):
        self.base = base_directory()
        self.names = itertools.count(1)
        self.postgres = Postgres(self.base / "postgres", POSTGRES)
        self._rabbit = None

    def start(self):
        self.postgres.start()
        self.postgres.create_database("template_txmsg")
        Ctl(BUILD, dsn=self.postgres.dsn("template_txmsg"))("migrate", "up")
        return self

    @property
    def rabbit(self):
        if not self._rabbit:
            self._rabbit = Rabbit(self.base / "rabbitmq").start()
        return self._rabbit

    def world(self, name, options=None, **more):
        return World(self, f"{re.sub('[^a-z0-9]', '_', name.lower())}_{next(self.names)}", options, **more)

    def close(self):
        if self._rabbit:
            self._rabbit.close()
        self.postgres.close()
        shutil.rmtree(self.base, ignore_errors=True)


class World:
    """A database of its own and one daemon on it (`second` starts another)."""

    def __init__(self, site, name, options=None, postgres=None, tcp_port=None, partition_seconds=None):
        self.site, self.name = site, name
        self.postgres = postgres or site.postgres
        own_schema = postgres or partition_seconds
        self.postgres.create_database(name, template=None if own_schema else "template_txmsg")
        self.dsn = self.postgres.dsn(name)
        if own_schema:
            Ctl(BUILD, dsn=self.dsn)("migrate", "up", "--partition-seconds", str(partition_seconds or 86400))
        self.options = {**FAST, **(options or {})}
        self.directory = site.base / name
        self.closing = []
        self.txmsgd = self.daemon("txmsgd", dsn=self.postgres.dsn(name, port=tcp_port) if tcp_port else self.dsn)
        self.ctl = Ctl(BUILD, server=lambda: self.txmsgd.grpc, dsn=self.dsn)
        self._client = None
        self._db = None
        self.serial = itertools.count(1)

    def daemon(self, name, options=None, dsn=None):
        daemon = Txmsgd(BUILD, self.directory, dsn or self.dsn, {**self.options, **(options or {})}, name)
        self.closing.append(daemon)
        return daemon

    def start(self):
        self.txmsgd.start()
        return self

    @property
    def client(self):
        """A client of the daemon's present address."""
        if self._client is None or self._client.target != self.txmsgd.grpc:
            if self._client:
                self._client.close()
            self._client = Client(self.txmsgd.grpc)
        return self._client

    def sql(self, query, *args):
        """Rows of a query against this world's database, on one connection that is made anew when it was lost."""
        for attempt in (1, 2):
            if self._db is None or self._db.closed:
                self._db = psycopg2.connect(self.dsn)
                self._db.autocommit = True
            try:
                with self._db.cursor() as cursor:
                    cursor.execute(query, args or None)
                    return cursor.fetchall() if cursor.description else []
            except psycopg2.Error:
                if attempt == 2:
                    raise
                self._db.close()
        return []

    def sink(self, **more):
        sink = HttpSink(**more)
        self.closing.append(sink)
        return sink

    def check_endpoint(self, secret=None):
        endpoint = CheckEndpoint(secret)
        self.closing.append(endpoint)
        return endpoint

    def unique(self, prefix):
        return f"{prefix}-{next(self.serial)}"

    def apply(self, *args, topics=(), producers=(), subscriptions=()):
        """Applies topology through the command line and waits until every live worker has it."""
        topology = {"topics": [{"name": t} if isinstance(t, str) else t for t in topics],
                    "producers": [{"name": p} if isinstance(p, str) else p for p in producers],
                    "subscriptions": list(subscriptions)}
        answer = self.ctl.apply({k: v for k, v in topology.items() if v}, *args)
        self.wait_applied()
        return answer

    def wait_applied(self, timeout=10):
        """The epoch of the configuration has reached every worker that holds an open lane."""
        wait_until(lambda: self.sql(
            "SELECT coalesce(bool_and(w.epoch >= (SELECT epoch FROM cfg)), false) FROM lane l JOIN worker w USING (run) "
            "WHERE l.state = 'open'")[0][0], timeout, "every worker has the new topology")

    def topic(self, **sinks):
        """A new topic with one subscription for each sink named; answers the topic's name. Subscriptions are called
        `<topic>-<name>`."""
        topic = self.unique("t")
        self.apply(topics=[topic], producers=["shop"],
                   subscriptions=[subscription(f"{topic}-{name}", topic, sink) for name, sink in sinks.items()])
        return topic

    def wait_state(self, tx, state, timeout=30):
        """Waits for a transaction's state; answers the transaction."""
        def reached():
            view = self.client.get(tx)
            return view if view.state == state else None

        return wait_until(reached, timeout, f"{tx} is in state {state}")

    def wait_delivery(self, tx, subscription_name, state, n=0, timeout=30):
        """Waits for the delivery of a message to one subscription; answers the delivery."""
        def reached():
            for message in self.client.get(tx).messages:
                for delivery in message.deliveries:
                    if (message.n, delivery.subscription, delivery.state) == (n, subscription_name, state):
                        return delivery
            return None

        return wait_until(reached, timeout, f"{subscription_name} has {tx}.{n} in state {state}")

    def close(self):
        if self._client:
            self._client.close()
        if self._db:
            self._db.close()
        faults = []
        for thing in reversed(self.closing):
            try:
                thing.close()
            except ServerError as error:
                faults.append(str(error))
        assert not faults, "\n".join(faults)


def metric(daemon, name, **labels):
    """The value of one series of a daemon's /metrics; 0 if there is none."""
    label = ",".join(f'{key}="{value}"' for key, value in labels.items())
    series = f"{name}{{{label}}}" if label else name
    for line in daemon.get("/metrics")[1].splitlines():
        if line.rpartition(" ")[0] == series:
            return float(line.rpartition(" ")[2])
    return 0


QUICK_RETRY = {"initial": "50ms", "factor": 1.5, "max": "200ms"}


def subscription(name, topic, sink, retry=None, **more):
    """A subscription as `apply` takes it; `sink` is a peer, or a sink as in the topology."""
    if isinstance(sink, HttpSink):
        sink = {"http": {"url": sink.url("/hook"), "timeout": "2s"}}
    return {"name": name, "topic": topic, "sink": sink, "retry": retry or QUICK_RETRY, **more}
