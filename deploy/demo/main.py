#!/usr/bin/python3
"""Starts everything that the story needs, plays it, and stops everything again. Called by deploy/quickstart."""

import argparse
import os
import pathlib
import shutil
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import stubs
import webhook
from servers.postgres import Postgres
from servers.process import Process, ServerError, base_directory, free_port, make_directory, wait_until
from servers.rabbit import Rabbit, connects
from servers.txmsgd import Ctl, Txmsgd
from story import Story
from narrator import Trace

HERE = pathlib.Path(__file__).resolve().parent


class Stopped(Exception):
    """Ctrl-C or SIGTERM."""


class Demo:
    def __init__(self, build, base, trace):
        self.build, self.base, self.trace = build, base, trace
        self.started = [] # what to stop, in the order of starting
        self.shop_port, self.hook_port = free_port(), free_port()
        self.shop_secret, self.hook_secret = webhook.new_secret(), webhook.new_secret()

    def start(self):
        trace = self.trace
        trace.heading(f"Starting, with all data under {self.base}")
        self.postgres = self.add(Postgres(self.base / "postgres"))
        self.postgres.start()
        trace.event("PostgreSQL", f"127.0.0.1:{self.postgres.port}")
        self.rabbit = self.add(Rabbit(self.base / "rabbitmq"))
        self.rabbit.start()
        trace.event("RabbitMQ", f"127.0.0.1:{self.rabbit.port}")
        for name in ("txmsg", "shop"):
            if not self.postgres.psql(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
                self.postgres.create_database(name)
        dsn = self.postgres.dsn("txmsg")
        Ctl(self.build, dsn=dsn)("migrate", "up")
        trace.event("txmsgctl", "migrate up: the database has its schema")
        options = {"drain": "5s"}
        self.txmsgd = self.add(Txmsgd(self.build, make_directory(self.base / "txmsgd", mode=0o700), dsn, options))
        self.txmsgd.start()
        trace.event("txmsgd", f"gRPC {self.txmsgd.grpc}, HTTP {self.txmsgd.http}")
        self.ctl = Ctl(self.build, server=self.txmsgd.grpc)
        self.ctl.apply(self.topology())
        trace.event("txmsgctl", "apply: one topic, one producer, two subscriptions")
        self.start_programs()

    def topology(self):
        return {
            "topics": [{"name": "orders"}],
            "producers": [{"name": "shop", "check": {
                "endpoints": [f"http://127.0.0.1:{self.shop_port}/check"], "secret": self.shop_secret,
                "first_after": "2s", "initial": "1s", "timeout": "3s"}}],
            "subscriptions": [
                {"name": "orders-http", "topic": "orders",
                 "sink": {"http": {"url": f"http://127.0.0.1:{self.hook_port}/orders", "secret": self.hook_secret}},
                 "retry": {"initial": "500ms", "max": "5s"}},
                {"name": "orders-rabbitmq", "topic": "orders",
                 "sink": {"rabbitmq": {"url": self.rabbit.url(), "routing_key": "orders"}},
                 "retry": {"initial": "500ms", "max": "5s"}}],
        }

    def start_programs(self):
        consumers = make_directory(self.base / "consumers")
        self.record_files = {"HTTP consumer": consumers / "http.sqlite", "RabbitMQ consumer": consumers / "rabbitmq.sqlite"}
        generated = stubs.generate(self.base / "stubs")
        hook = self.program("consumer_http.py", "--records", self.record_files["HTTP consumer"], "--port", self.hook_port,
                            CONSUMER_SECRET=self.hook_secret)
        rabbitmq = self.program("consumer_rabbitmq.py", "--records", self.record_files["RabbitMQ consumer"],
                                "--queue", "orders", AMQP_URL=self.rabbit.url())
        shop = self.program("producer.py", "--dsn", self.postgres.dsn("shop"), "--txmsg", self.txmsgd.grpc,
                            "--stubs", generated, "--port", self.shop_port, SHOP_CHECK_SECRET=self.shop_secret)
        wait_until(lambda: connects(self.hook_port), 20, "the HTTP consumer listens", alive=hook.check_alive)
        wait_until(lambda: "queue orders" in rabbitmq.tail(), 20, "the RabbitMQ consumer listens",
                   alive=rabbitmq.check_alive)
        wait_until(lambda: connects(self.shop_port), 20, "the shop listens", alive=shop.check_alive)
        self.trace.event("demo", "the shop and two consumers run, each a program with its own data")

    def program(self, script, *args, **environment):
        env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **environment}
        log = self.base / f"{script}.log"
        return self.add(Process(script, ["/usr/bin/python3", HERE / script, *map(str, args)], log, env=env))

    def add(self, server):
        self.started.append(server)
        return server

    def story(self):
        story = Story(self.trace, f"http://127.0.0.1:{self.shop_port}", self.ctl, self.record_files)
        seen, steps = story.play()
        self.trace.heading(f"{seen} of {steps} steps were seen in the consumers' own records.")
        if seen != steps:
            self.trace.note(f"The logs are under {self.base}: start again with --keep to look at them.")
        return seen == steps

    def addresses(self):
        for name, text in (
                ("gRPC", self.txmsgd.grpc),
                ("metrics, health", f"{self.txmsgd.http}/metrics  /healthz  /readyz"),
                ("command line", f"'{self.ctl.binary}' --server {self.txmsgd.grpc} list"),
                ("an order", f"curl -d '{{\"item\": \"tea\"}}' http://127.0.0.1:{self.shop_port}/orders"),
                ("its Confirm lost", f"curl -d '{{\"item\": \"tea\", \"rehearse\": \"lose-confirm\"}}' "
                                     f"http://127.0.0.1:{self.shop_port}/orders"),
                ("database", f"psql '{self.postgres.dsn('txmsg')}'"),
                ("RabbitMQ", self.rabbit.url()),
                ("records, logs", self.base)):
            self.trace.note(f"  {name:<17} {text}")

    def stop(self):
        for server in reversed(self.started):
            try:
                server.stop() if isinstance(server, Process) else server.close()
            except (OSError, ServerError) as error:
                print(f"while stopping: {error}", file=sys.stderr)


def stop_on_signals():
    def raise_stopped(number, frame):
        raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, raise_stopped)


def ignore_signals():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def main():
    parser = argparse.ArgumentParser(prog="quickstart", description="txmsg on this machine, with a demo")
    parser.add_argument("--build", required=True, help="build directory")
    parser.add_argument("--once", action="store_true", help="end after the story")
    parser.add_argument("--data", help="directory for all data; it is kept, and used again next time")
    parser.add_argument("--keep", action="store_true", help="keep the data directory")
    args = parser.parse_args()
    stop_on_signals()
    trace, code, demo, base = Trace(), 1, None, None
    try:
        base = base_directory(args.data)
        demo = Demo(pathlib.Path(args.build).resolve(), base, trace)
        demo.start()
        code = 0 if demo.story() else 1
        if not args.once:
            demo.addresses()
            trace.note("\nIt stays up. Ctrl-C stops everything.")
            while True:
                signal.pause()
    except Stopped as stopped:
        code = code if not args.once else 128 + stopped.args[0]
    except (ServerError, OSError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
    finally:
        ignore_signals()
        if demo:
            trace.note("\nStopping.")
            demo.stop()
        if base and (args.keep or args.data):
            trace.note(f"The data is kept: {base}")
        elif base:
            shutil.rmtree(base, ignore_errors=True)
    return code


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
