"""Many orders while things go wrong at random. The seed decides orders and faults; how they meet is chance."""

import random
import threading
import time

from servers.process import ServerError, wait_until
from servers.rabbit import connects

MISHAPS = ["", "", "", "", "lose-confirm", "roll-back", "lose-ack", "die"]
CUSTOMERS = 3
FAULTS = ("order killed", "stock killed", "cart killed", "points killed", "desk killed", "txmsgd killed", "table away")


class Load:
    def __init__(self, shop, trace, desk, orders, faults, seed):
        self.shop, self.trace, self.desk = shop, trace, desk
        self.orders, self.faults = orders, faults
        self.random = random.Random(seed)
        self.lock = threading.Lock() # of the plan
        self.counts = {}

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def run(self):
        """True if all agrees in the end."""
        self.trace.heading(f"{self.orders} orders" + (", while things go wrong" if self.faults else ""))
        # Customers are the threads, not the faults: a process ends with the thread that has started it.
        plan = iter([self.plan(n) for n in range(self.orders)])
        customers = [threading.Thread(target=self.place_all, args=(plan,)) for _ in range(CUSTOMERS)]
        for customer in customers:
            customer.start()
        self.strike_until(customers)
        self.trace.event("shop", ", ".join(f"{v} {k}" for k, v in sorted(self.counts.items())))
        try:
            self.desk.settled(120, meanwhile=lambda: self.shop.redrive("orders-points", "all is well again"))
            self.trace.good("all agree")
            return True
        except ServerError as error:
            self.trace.bad(str(error))
            return False

    def plan(self, n):
        """An order, and how long a customer thinks before it."""
        mishap = self.random.choice(MISHAPS) if self.faults else ""
        item = "gold" if self.random.random() < 0.15 else "tea"
        self.count(f"orders with {mishap}" if mishap else "plain orders")
        return (f"o{n}", f"customer{self.random.randrange(5)}", item, self.random.randrange(1, 4), mishap,
                self.random.uniform(0, 0.5) if self.faults else 0)

    def place_all(self, plan):
        while True:
            with self.lock:
                *order, pause = next(plan, (None, 0))
            if not order[0]:
                return
            time.sleep(pause)
            wait_until(lambda: connects(self.shop.ports["order"]), 60, "the order service listens")
            self.desk.place(*order)

    def strike_until(self, customers):
        """Faults while customers order; and whatever is dead is started again."""
        chance = random.Random(self.random.random())
        next_at = time.monotonic()
        while any(c.is_alive() for c in customers):
            time.sleep(0.05)
            if not self.shop.services["order"].alive():
                self.shop.start_service("order")
            if self.faults and time.monotonic() > next_at:
                fault = chance.choice(FAULTS)
                self.count(f"times {fault}")
                self.strike(fault, chance)
                next_at = time.monotonic() + chance.uniform(0.1, 0.8)
        if not self.shop.services["order"].alive():
            self.shop.start_service("order")

    def strike(self, fault, chance):
        if fault == "txmsgd killed":
            self.shop.restart_txmsgd()
        elif fault == "table away":
            self.shop.postgres.psql("ALTER TABLE account RENAME TO account_of_yesterday", "points")
            time.sleep(chance.uniform(0.1, 1.0))
            self.shop.postgres.psql("ALTER TABLE account_of_yesterday RENAME TO account", "points")
        else:
            self.shop.restart_service(fault.split()[0])
