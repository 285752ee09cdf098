"""The examples in other languages, client/examples: each is built by its one command and run against a daemon and a database, and gets
through the same story. One whose tools are not on this machine is skipped, and says which."""

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request

import grpc
import psycopg2
import pytest
import webhook
from harness import BUILD, TOP
from harness.client import CANCELLED, CHECK, CONFIRMED, DELIVERY, RPC, message
from harness.ids import uuid7
from harness.world import subscription
from servers.process import free_port, wait_until
from servers.txmsgd import clean_environment
from txmsg.v1 import check_service_pb2, consumer_service_pb2, transaction_pb2
from txmsg.v1.check_service_pb2_grpc import CheckServiceStub
from txmsg.v1.consumer_service_pb2_grpc import ConsumerServiceStub

DELIVERED, DEAD = DELIVERY["DELIVERED"], DELIVERY["DEAD"]
pytestmark = pytest.mark.timeout(1500)  # the first build fetches much
TOOLS = {"python": ["python3"], "go": ["go", "protoc"], "java": ["java", "mvn"], "node": ["node", "npm"]}
CHECK_OVER = {"python": "grpc", "go": "http", "java": "grpc", "node": "http"}
CONSUME_OVER = {"python": "grpc", "go": "grpc", "java": "grpc", "node": "http"}


class Example:
    """One language: its database, its check endpoint, its consumer, and a subscription of their own."""

    def __init__(self, language, world):
        self.language, self.world = language, world
        self.name = f"{language}-shop"
        self.directory = TOP / "client/examples" / language
        self.out = BUILD.resolve() / "examples" / language
        self.secret = webhook.new_secret()
        self.ports = {"checks": free_port(), "consumer": free_port()}
        self.processes = []

    def build(self):
        done = subprocess.run([self.directory / "build"], env={**os.environ, "OUT": str(self.out)}, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=1200, check=False)
        assert done.returncode == 0, done.stdout[-4000:]

    def start(self):
        self.make_database()
        for what in self.ports:
            self.start_one(what)
        url = {"http": "http://127.0.0.1:%d/", "grpc": "grpc://127.0.0.1:%d"}
        checks = url[CHECK_OVER[self.language]] % self.ports["checks"]
        consumer = url[CONSUME_OVER[self.language]] % self.ports["consumer"]
        sink = {"http": {"http": {"url": consumer, "secret": self.secret}}, "grpc": {"grpc": {"endpoints": [consumer]}}}
        self.world.apply(topics=[self.name], producers=[{"name": self.name, "check": {
            "endpoints": [checks], "first_after": "1s", "initial": "1s", "factor": 1, "max": "1s"}}],
            subscriptions=[subscription(self.name, self.name, sink[CONSUME_OVER[self.language]])])

    def make_database(self):
        if self.language == "python":
            self.database = str(self.world.directory / "shop.db")
            return
        postgres = self.world.postgres
        postgres.create_database(self.name)
        p = psycopg2.extensions.parse_dsn(postgres.dsn(self.name, tcp=True))
        at = f"{p['host']}:{p['port']}/{self.name}"
        self.database = f"postgres://{p['user']}:{p['password']}@{at}?sslmode=disable"
        if self.language == "java":
            self.database = f"jdbc:postgresql://{at}?user={p['user']}&password={p['password']}"

    def environment(self, **more):
        return clean_environment({"OUT": str(self.out), "DATABASE": self.database, "TXMSG_SERVER": self.world.txmsgd.grpc,
                                  "SECRET": self.secret, "PRODUCER": self.name, "TOPIC": self.name, **more})

    def start_one(self, what):
        log = open(self.world.directory / f"{self.language}-{what}.log", "w", encoding="utf-8")
        with log:
            process = subprocess.Popen([self.directory / "run", what], env=self.environment(PORT=str(self.ports[what])),
                                       stdout=log, stderr=log)
        self.processes.append(process)
        wait_until(lambda: process.poll() is not None or listens(self.ports[what]), 60, f"{what} of {self.language} listens")
        assert process.poll() is None, (self.world.directory / f"{self.language}-{what}.log").read_text()

    def order(self, item, *how, code=0):
        """The id of its transaction."""
        done = subprocess.run([self.directory / "run", "order", item, *how], env=self.environment(), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        assert done.returncode == code if code is not None else done.returncode != 0, done.stderr
        return done.stdout.strip()

    def rows(self, query):
        if self.language == "python":
            with contextlib.closing(sqlite3.connect(self.database)) as db:
                return db.execute(query).fetchall()
        with contextlib.closing(psycopg2.connect(self.world.postgres.dsn(self.name))) as db, db.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def sold(self):
        return dict(self.rows("SELECT item, n FROM sold"))

    def orders(self):
        return {item for item, in self.rows("SELECT item FROM orders")}

    def check(self, tx):
        """The word its check endpoint answers."""
        if CHECK_OVER[self.language] == "grpc":
            with grpc.insecure_channel(f"127.0.0.1:{self.ports['checks']}") as channel:
                answer = CheckServiceStub(channel).Check(check_service_pb2.CheckRequest(transaction_id=tx), timeout=30)
            assert answer.transaction_id == tx
            return transaction_pb2.CheckVerdict.Name(answer.decision).removeprefix("CHECK_VERDICT_")
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports['checks']}/", json.dumps({"transactionId": tx}).encode())
        answer = json.load(urllib.request.urlopen(request, timeout=30))
        assert answer["transactionId"] == tx
        return answer["decision"]

    def deliver(self, tx, body, secret=None):
        """As the service does it; true: acknowledged."""
        if CONSUME_OVER[self.language] == "grpc":
            with grpc.insecure_channel(f"127.0.0.1:{self.ports['consumer']}") as channel:
                answer = ConsumerServiceStub(channel).Deliver(consumer_service_pb2.DeliverRequest(
                    message_id=f"{tx}.0", transaction_id=tx, message=transaction_pb2.Message(topic=self.name, body=body)), timeout=30)
            return answer.outcome == consumer_service_pb2.DeliverResponse.Outcome.OUTCOME_ACK
        now = int(time.time())
        headers = {"ce-id": f"{tx}.0", "webhook-id": f"{tx}-0", "webhook-timestamp": str(now),
                   "webhook-signature": webhook.sign(secret or self.secret, f"{tx}-0", now, body)}
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports['consumer']}/", body, headers)
        with contextlib.suppress(urllib.error.HTTPError):
            return urllib.request.urlopen(request, timeout=30).status == 200
        return False

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest.fixture(scope="module", params=TOOLS)
def example(world, request):
    missing = [tool for tool in TOOLS[request.param] if not shutil.which(tool)]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not on this machine")
    made = Example(request.param, world)
    made.build()
    try:
        made.start()
        yield made
    finally:
        made.close()


def delivered(world, example, tx, origin):
    assert world.wait_state(tx, CONFIRMED).origin == origin
    world.wait_delivery(tx, example.name, DELIVERED)


def test_order_arrives_once(world, example):
    delivered(world, example, example.order("tea"), RPC)
    assert example.sold()["tea"] == 1 and "tea" in example.orders()


def test_lost_confirm_is_settled_by_a_check(world, example):
    delivered(world, example, example.order("coffee", "lose-confirm"), CHECK)
    assert example.sold()["coffee"] == 1


def test_rolled_back_is_never_delivered(world, example):
    """By a Cancel, and by a check where the producer died before its commit."""
    cancelled, dead = example.order("cake", "roll-back"), example.order("pie", "crash", code=3)
    assert world.wait_state(cancelled, CANCELLED).origin == RPC
    assert world.wait_state(dead, CANCELLED).origin == CHECK
    delivered(world, example, example.order("marker"), RPC)
    assert not {"cake", "pie"} & (example.sold().keys() | example.orders())


def test_the_check_forbids_a_late_commit(world, example):
    tx = uuid7()
    assert example.check(tx) == "ROLLED_BACK"
    assert example.order("late", "commit", tx, code=None) == tx
    assert world.wait_state(tx, CANCELLED).origin == CHECK
    assert "late" not in example.orders() and example.check(tx) == "ROLLED_BACK"


def test_a_duplicate_is_booked_once(world, example):
    tx = uuid7()
    assert example.deliver(tx, b"bread") and example.deliver(tx, b"bread") and example.deliver(uuid7(), b"bread")
    assert example.sold()["bread"] == 2


def test_what_cannot_be_right_is_refused_for_good(world, client, example):
    tx = client.publish([message(example.name, b"")], tx=uuid7(), producer=example.name).transaction_id
    assert world.wait_delivery(tx, example.name, DEAD).attempts == 1


def test_a_forged_delivery_is_refused(example):
    if CONSUME_OVER[example.language] != "http":
        pytest.skip("only HTTP deliveries are signed")
    assert not example.deliver(uuid7(), b"gold", secret=webhook.new_secret())
    assert "gold" not in example.sold()
