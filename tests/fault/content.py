"""What producers send and everybody else must see: topology, transactions and bodies, all derived from the seed. Producers,
check endpoints and the checker share this, so none of them needs to ask another what the truth is."""

import dataclasses
import hashlib
import time
import uuid

# Who may be asked about a transaction is told by its business key, `<truth>-<serial>`:
#   c, r   COMMITTED, ROLLED_BACK
#   w      UNKNOWN twice, then COMMITTED: the local transaction took its time
#   u      UNKNOWN for ever
COMMITTED, ROLLED_BACK, WAITING, UNKNOWN = "c", "r", "w", "u"

FIRST_AFTER = 1.0 # seconds; of every producer
BACKOFF = {"first_after": "1s", "initial": "1s", "factor": 1.5, "max": "3s", "jitter": 0.2, "timeout": "1s"}
JITTER = 0.2
CHECK_TIMEOUT = 1.0
SINK_TIMEOUT = 2.0
MAX_UNKNOWNS = {"shop": 1000, "bank": 3, "ghost": 3, "pull": 1000}
# `pull` has none: its instances hold a stream of Checks.
ENDPOINTS = {"shop": ["/check/shop"], "bank": ["/check/bank/broken", "/check/bank"], "ghost": ["/check/ghost"], "pull": []}

# Subscriptions by topic. `strict` refuses some messages for good, so it has dead letters; `void` answers nothing until the end,
# and nobody else may notice.
SUBSCRIPTIONS = {"orders": ["orders-http", "orders-rabbit", "void"], "events": ["events-http", "strict"],
                 "news": ["news-rabbit"]}
HTTP = {"orders-http", "events-http", "strict", "void"}
HEALTHY = {"orders-http", "events-http", "orders-rabbit", "news-rabbit"}
RABBIT = {"orders-rabbit": "fault-orders", "news-rabbit": "fault-news"}
MAX_ATTEMPTS = {"strict": 6}
TELLER, OUTCOMES = "pull", "outcomes" # this producer hears what became of its messages, over that topic
OWN = "txmsg" # producer of what the service itself publishes
NEVER = 1000 # attempts, for those that must get everything


def topology(peer, rabbit):
    """The topology, as `txmsgctl apply` takes it; `peer` is the base URL of the HTTP peers, `rabbit` the broker's URL."""
    def sink(name):
        if name in RABBIT:
            return {"rabbitmq": {"url": rabbit, "routing_key": RABBIT[name], "timeout": f"{SINK_TIMEOUT}s"}}
        return {"http": {"url": f"{peer}/sink/{name}", "timeout": f"{SINK_TIMEOUT}s"}}

    return {
        "topics": [{"name": name} for name in (*SUBSCRIPTIONS, OUTCOMES)],
        "producers": [{"name": name, "check": {"endpoints": [peer + path for path in paths], "concurrency": 32,
                                               "max_unknowns": MAX_UNKNOWNS[name], **BACKOFF},
                       "outcomes": {"delivered": OUTCOMES, "dead": OUTCOMES} if name == TELLER else {}}
                      for name, paths in ENDPOINTS.items()],
        "subscriptions": [{"name": name, "topic": topic, "sink": sink(name), "concurrency": 64,
                           "retry": {"initial": "100ms", "factor": 2, "max": "2s", "max_age": "12h",
                                     "max_attempts": MAX_ATTEMPTS.get(name, NEVER)}}
                          for topic, names in SUBSCRIPTIONS.items() for name in names] +
                         [{"name": OUTCOMES, "topic": OUTCOMES, "sink": {"discard": {}}}],
    }


def body_of(tx, n, variant, size):
    """The body of message n of a transaction; another variant is another content under the same id."""
    head = f"{tx}.{n} variant {variant} "
    block = hashlib.sha256(head.encode()).hexdigest()
    return (head + block * (size // len(block) + 1))[:max(size, len(head))].encode()


def key_of(tx, n):
    return f"key {tx[-4:]} {n}".encode()


def digest(body, variant):
    """What consumers note of a message: its body and the header `x-variant`."""
    return hashlib.sha256(body + b"\0" + str(variant).encode()).hexdigest()[:24]


def refused_for_good(tx, n):
    """The messages that `strict` refuses."""
    return hashlib.sha256(f"{tx}.{n}".encode()).digest()[0] < 16


@dataclasses.dataclass
class Transaction:
    """What a producer means to send under one id."""

    tx: str
    producer: str
    truth: str
    messages: list # [topic, size] each
    check_after: float = 0
    serial: str = ""

    @property
    def business_key(self):
        return f"{self.truth}-{self.serial}"

    def bodies(self, variant=0):
        return [body_of(self.tx, n, variant, size) for n, (_, size) in enumerate(self.messages)]

    def digests(self, variant=0):
        return [digest(body, variant) for body in self.bodies(variant)]


def uuid7(rng):
    value = (int(time.time() * 1000) << 80) | (7 << 76) | (rng.getrandbits(12) << 64) | (2 << 62) | rng.getrandbits(62)
    return str(uuid.UUID(int=value))


def make(rng, serial, producer="shop", truth=COMMITTED):
    """A transaction of one to five messages."""
    count = rng.choice((1, 1, 1, 1, 2, 3, 5))
    messages = [[rng.choice(("orders", "orders", "events", "news")), rng.choice((100, 100, 300, 3000))] for _ in range(count)]
    check_after = rng.choice((0, 0, 0, 2)) if producer == "shop" else 0
    return Transaction(uuid7(rng), producer, truth, messages, check_after, str(serial))
