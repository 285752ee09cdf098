"""The classic cases, one after the other. What counts is what stands in the databases of the services."""

import json

from audit import Audit
from servers.process import ServerError, wait_until

WAIT_S = 60


class Desk:
    """The shop's people: they fill carts, place orders and look what became of them."""

    def __init__(self, shop, trace, stock):
        self.shop, self.trace, self.stock = shop, trace, stock
        self.carts = {}
        for item, amount in stock.items():
            shop.postgres.psql(f"INSERT INTO stock VALUES ('{item}', {amount})", "stock")

    def place(self, order, customer, item, amount, rehearse=""):
        self.carts[order] = (customer, item, amount)
        self.shop.postgres.psql(f"INSERT INTO cart VALUES ('{order}', '{customer}', '{item}', {amount})", "cart")
        return self.shop.order(order=order, customer=customer, item=item, amount=amount, rehearse=rehearse)

    def audit(self):
        return Audit(self.shop, self.carts, self.stock)

    def settled(self, timeout=WAIT_S, meanwhile=lambda: None):
        """Waits until orders, stock, points and carts agree. `meanwhile`: what a person does as long as they do not."""
        last = []

        def agree():
            last[:] = self.audit().faults()
            if last:
                meanwhile()
            return not last

        try:
            wait_until(agree, timeout, "all agree", interval=0.2)
        except ServerError as error:
            raise ServerError("; ".join(last[:8]) or str(error)) from error

    def ends(self, order, state):
        """The same, with this order in a state of its own."""
        self.settled()
        found = self.audit().orders.get(order)
        if not found or found[3] != state:
            raise ServerError(f"order {order} is {found[3] if found else 'nowhere'}, not {state}")

    def transaction(self, order):
        """What txmsg says of it: found by the order's number, its business key."""
        found = self.shop.ctl.json("list", "--producer", "orders", "--business-key", order)["transactions"]
        return found[0] if found else {}


class Story:
    def __init__(self, shop, trace, desk):
        self.shop, self.trace, self.desk = shop, trace, desk

    def play(self):
        """Plays all of it; answers (steps seen, steps)."""
        steps = (self.success, self.produce_error, self.consume_error, self.refused, self.duplicates, self.killed)
        seen = 0
        for step in steps:
            try:
                step()
                seen += 1
            except (ServerError, OSError, KeyError) as error:
                self.trace.bad(str(error))
        return seen, len(steps)

    def success(self):
        self.trace.heading("a. Success: an order is committed and confirmed. Stock, points and cart each hear of it once.")
        self.desk.place("a1", "ann", "tea", 2)
        self.desk.ends("a1", "PLACED")
        self.shop.show_logs("a1")
        self.trace.good("2 tea off the stock, 20 points for ann, her cart is empty")

    def produce_error(self):
        self.trace.heading("b. produceError: the order is committed, its Confirm is lost. txmsg asks, and delivers.")
        self.desk.place("b1", "bob", "tea", 3, "lose-confirm")
        self.desk.ends("b1", "PLACED")
        self.shop.show_logs("b1")
        self.decided_by_check("b1")
        self.trace.good("30 points for bob, once")

    def decided_by_check(self, order):
        view = self.desk.transaction(order)
        if not str(view.get("origin", "")).endswith("CHECK"):
            raise ServerError(f"order {order} was decided by {view.get('origin')}, not by a check")

    def consume_error(self):
        self.trace.heading("c. consumeError: the points service fails and fails. Its queue is full, txmsg gives up: a dead letter.")
        self.shop.postgres.psql("ALTER TABLE account RENAME TO account_of_yesterday", "points")
        self.trace.event("somebody", "renames the table of the points accounts")
        orders = [f"c{n}" for n in range(1, self.shop.queue_max + 4)]
        try:
            for order in orders:
                self.desk.place(order, "cleo", "tea", 1)
            wait_until(lambda: self.shop.letters("orders-points") and self.shop.has_said("desk", "ALERT: orders-points has"),
                       WAIT_S, "the desk hears of a dead letter of the points", interval=0.2)
        finally:
            self.shop.postgres.psql("ALTER TABLE account_of_yesterday RENAME TO account", "points")
        self.shop.show_logs(*orders)
        self.trace.event("a person", "gives the table its name back, and redrives")
        self.desk.settled(meanwhile=lambda: self.shop.redrive("orders-points", "the table has its name again"))
        self.desk.ends(orders[-1], "PLACED")
        wait_until(lambda: self.shop.has_said("desk", "ALERT is over: orders-points"), WAIT_S, "the alert is over", interval=0.2)
        self.shop.show_logs(*orders)
        self.trace.good(f"{10 * len(orders)} points for cleo: each order once")

    def refused(self):
        self.trace.heading("d. Insufficient stock: the stock refuses for good, and the order ends FAILED.")
        self.desk.place("d1", "dan", "gold", 5)
        wait_until(lambda: self.desk.audit().orders["d1"][3] == "FAILED", WAIT_S, "the order fails", interval=0.2)
        self.desk.ends("d1", "FAILED")
        wait_until(lambda: self.shop.has_said("desk", "ALERT: orders-stock has"), WAIT_S, "the desk is told", interval=0.2)
        self.shop.show_logs("d1")
        self.trace.good("order FAILED, no points for dan, and the gold is in his cart again")

    def duplicates(self):
        self.trace.heading("e. Duplicates: each consumer does its work, and its answer is lost. The message comes again.")
        self.desk.place("e1", "eve", "tea", 1, "lose-ack")
        wait_until(lambda: all(self.shop.has_said(name, "order e1: orders came again") for name in ("stock", "cart", "points")),
                   WAIT_S, "all duplicates have come")
        self.desk.ends("e1", "PLACED")
        self.shop.show_logs("e1")
        self.trace.good("everything once")

    def killed(self):
        self.trace.heading("e. kill -9 of the order service between its local commit and the Confirm.")
        answer = self.desk.place("e2", "eve", "tea", 2, "die")
        if answer is not None:
            raise ServerError(f"the order service has survived: {json.dumps(answer)}")
        self.trace.event("order service", "is dead, the order is in its database")
        self.shop.restart_service("order")
        self.desk.ends("e2", "PLACED")
        self.shop.show_logs("e2")
        self.decided_by_check("e2")
        self.trace.good("the new process was asked, and what the old one had committed was delivered")
