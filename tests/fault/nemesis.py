"""What is broken when: a schedule derived from the seed, and the orders to the keepers that follow from it."""

import random
import time

GAP = 1.3 # seconds between faults, on average

# (weight, name, what is drawn for it). A frozen replica loses its lane when it is frozen for longer than dead_after.
FAULTS = [
    (40, "kill", lambda rng, dead: {"down": rng.choice((0, 0.2, 1, dead + 3))}),
    (28, "backends", lambda rng, dead: {"share": rng.choice(("lane", "lane", "one", "all"))}),
    (10, "crash", lambda rng, dead: {"down": rng.choice((0, 0, 0.5, 2))}),
    (7, "freeze", lambda rng, dead: {"seconds": dead * rng.choice((0.3, 0.8, 1.3, 1.3, 2))}),
    (4, "terminate", lambda rng, dead: {}),
    (3, "full", lambda rng, dead: {"seconds": rng.choice((0.5, 1, 3))}),
    (1.5, "rabbit", lambda rng, dead: {"crash": rng.random() < 0.5}),
]
KILLS = ("kill", "crash", "backends") # what `--kills` counts


def schedule(seed, replicas, dead_after, without=()):
    """Endless (seconds until it comes, fault, who, arguments). The first faults are one of each kind, so that a short run
    has met them all."""
    rng = random.Random(f"{seed} nemesis")
    faults = [f for f in FAULTS if f[1] not in without]
    first = list(faults)
    rng.shuffle(first)
    while True:
        weight, name, draw = first.pop() if first else rng.choices(faults, [f[0] for f in faults])[0]
        yield min(rng.expovariate(1 / GAP), 3 * GAP), name, rng.randrange(replicas), draw(rng, dead_after)


class Nemesis:
    def __init__(self, plan, replicas, database, broker):
        self.plan = plan
        self.replicas, self.database, self.broker = replicas, database, broker
        self.done = {name: 0 for _, name, _ in FAULTS}
        self.skipped = 0
        self.next_at, self.next = 0.0, None
        self._draw(time.monotonic())

    def _draw(self, now):
        gap, *self.next = next(self.plan)
        self.next_at = now + gap

    def kills(self):
        return sum(self.done[name] for name in KILLS)

    def step(self):
        """To be called often: gives the next order when its time has come. A server that is still busy with its last fault is
        left alone, and another replica takes its turn if there is one."""
        now = time.monotonic()
        if now < self.next_at:
            return
        name, who, how = self.next
        self._draw(now)
        if name in ("kill", "freeze", "terminate"):
            idle = [r for r in (*self.replicas[who:], *self.replicas[:who]) if not r.busy]
            target, order = (idle[0] if idle else None), name
        elif name == "rabbit":
            target, order = self.broker, "restart"
        else:
            target, order = self.database, {"full": "fill"}.get(name, name)
        if target is None or target.busy:
            self.skipped += 1
            return
        self.done[name] += 1
        target.order(order, **how)
