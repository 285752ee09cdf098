"""The servers and the services of the shop, each a process with a database of its own."""

import json
import pathlib
import re
import sys
import urllib.error
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[3]
for place in (TOP / "deploy", TOP / "deploy/demo"):
    sys.path.insert(0, str(place))

import webhook
from servers.postgres import Postgres
from servers.process import Process, free_port, make_directory, wait_until
from servers.rabbit import Rabbit, connects
from servers.txmsgd import Ctl, Txmsgd

SERVICES = ("order", "stock", "cart", "points", "desk")
DEAD = "orders.dead" # the topic of dead letters


class Shop:
    def __init__(self, build, base, trace, queue_max, attempts):
        self.build, self.base, self.trace = build, base, trace
        self.queue_max, self.attempts = queue_max, attempts
        self.started, self.services = [], {}
        self.ports = {name: free_port() for name in SERVICES}
        self.secrets = {name: webhook.new_secret() for name in ("events", "alerts")}
        self.positions = {} # how much of each log was shown

    # --- start and stop

    def start(self):
        self.postgres = self.add(Postgres(self.base / "postgres"))
        self.postgres.start()
        self.rabbit = self.add(Rabbit(self.base / "rabbitmq"))
        self.rabbit.start()
        for name in ("txmsg", *SERVICES):
            self.postgres.create_database(name)
        dsn = self.postgres.dsn("txmsg")
        Ctl(self.build, dsn=dsn)("migrate", "up")
        self.txmsgd = self.add(Txmsgd(self.build, make_directory(self.base / "txmsgd", mode=0o700), dsn,
                                      {"drain": "5s", "check.poll": "100ms", "check.find_poll": "100ms",
                                       "forward.retry_poll": "100ms", "alerts.poll": "200ms",
                                       "alerts.url": f"http://127.0.0.1:{self.ports['desk']}/alert",
                                       "alerts.secret": self.secrets["alerts"]}))
        self.txmsgd.start()
        self.ctl = Ctl(self.build, server=lambda: self.txmsgd.grpc)
        for name in reversed(SERVICES): # the queue of the points must be there before its subscriptions
            self.start_service(name)
        self.ctl.apply(self.topology())
        self.trace.event("shop", f"PostgreSQL, RabbitMQ, txmsgd and {len(SERVICES)} services run under {self.base}")

    def environment(self, name):
        more = {"TXMSG": self.txmsgd.grpc, "EVENT_SECRET": self.secrets["events"], "ALERT_SECRET": self.secrets["alerts"],
                "AMQP_URL": self.rabbit.url(), "QUEUE": "points", "QUEUE_MAX": str(self.queue_max)}
        return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "NAME": name, "PORT": str(self.ports[name]),
                "DSN": self.postgres.dsn(name), "GRPC_VERBOSITY": "ERROR", **more}

    def start_service(self, name):
        program = self.build / f"client/examples/shop/shop-{name}"
        process = Process(f"{name} service", [program], self.base / f"{name}.log", env=self.environment(name))
        self.services[name] = process
        ready = (lambda: "takes messages" in process.tail()) if name == "points" else \
            (lambda: connects(self.ports[name]))
        wait_until(ready, 30, f"the {name} service works", alive=process.check_alive)

    def kill_service(self, name):
        self.services[name].kill()

    def restart_service(self, name):
        self.kill_service(name)
        self.start_service(name)

    def restart_txmsgd(self):
        """kill -9; its clients find it at the same address again."""
        port = self.txmsgd.grpc_port
        self.txmsgd.kill()
        self.txmsgd.options["grpc.listen"] = f"127.0.0.1:{port}"
        self.txmsgd.start()

    def add(self, server):
        self.started.append(server)
        return server

    def stop(self):
        for process in self.services.values():
            process.kill()
        for server in reversed(self.started):
            try:
                server.close()
            except Exception as error: # the others are to be stopped too
                print(f"while stopping: {error}", file=sys.stderr)

    def topology(self):
        def http(service, path):
            return {"http": {"url": f"http://127.0.0.1:{self.ports[service]}/{path}", "secret": self.secrets["events"],
                             "timeout": "5s"}}

        def producer(name):
            return {"name": name, "check": {"first_after": "1s", "initial": "1s", "max": "2s", "max_unknowns": 1000}}

        rabbit = {"rabbitmq": {"url": self.rabbit.url(), "routing_key": "points", "timeout": "5s"}}
        grpc = {"grpc": {"endpoints": [f"grpc://127.0.0.1:{self.ports['cart']}"], "timeout": "5s"}}
        sinks = {"stock": http("stock", "orders"), "cart": grpc, "points": rabbit}
        back = {"order": http("order", "refused"), "cart": grpc, "points": rabbit}
        retry = {"initial": "200ms", "max": "1s", "max_attempts": self.attempts, "jitter": 0.2}
        subscriptions = [{"name": f"{topic}-{name}", "topic": topic, "sink": sink, "retry": retry, "dead_letter_topic": DEAD}
                         for topic, those in (("orders", sinks), ("refused", back)) for name, sink in those.items()]
        return {"topics": [{"name": "orders"}, {"name": "refused"}, {"name": DEAD}],
                "producers": [producer("orders"), producer("stock")],
                "subscriptions": [*subscriptions, {"name": "desk", "topic": DEAD, "sink": http("desk", "dead")}]}

    # --- doing and looking

    def sql(self, service, query):
        """Rows, as lists of text."""
        return [line.split("|") for line in self.postgres.psql(query, service).splitlines()]

    def order(self, **order):
        """Places an order; its answer, or None if the service died over it."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports['order']}/orders", json.dumps(order).encode(),
                                         {"Content-Type": "application/json"}, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.loads(error.read() or b"{}")
        except OSError:
            return None

    def show_logs(self, *orders):
        """What the services have said since the last time about these orders, checks and alerts."""
        said, wanted = {}, "|".join(map(re.escape, orders))
        for name in SERVICES:
            text = (self.base / f"{name}.log").read_text(errors="replace")
            new, self.positions[name] = text[self.positions.get(name, 0):], len(text)
            for at, line in re.findall(rf"^([0-9.]+) {name}: ((?:order (?:{wanted}):|asked|relation|ALERT).*)", new, re.M):
                said.setdefault((name, line), float(at)) # what repeats is said once
        for (name, line), at in sorted(said.items(), key=lambda item: item[1]):
            self.trace.event("desk" if name == "desk" else f"{name} service", line, at)

    def has_said(self, name, text):
        return text in (self.base / f"{name}.log").read_text(errors="replace")

    def letters(self, subscription):
        """Orders whose message this subscription gave up, as the desk was told: once for each death."""
        return [order for (order,) in self.sql("desk", f"SELECT order_id FROM letter WHERE subscription = '{subscription}'")]

    def redrive(self, subscription, reason):
        """What a person does about dead letters."""
        self.ctl("dead", "redrive", "--subscription", subscription, "--force", "--reason", reason)
