"""Do orders, stock, points and carts agree? Read from the databases of the services, believed to nobody."""

POINTS_EACH = 10


class Audit:
    """One look at all of them, and at what the desk was told. `carts`: what was put into carts in the beginning, {order: (customer, item, amount)}; `stock`: what there was
    of each item."""

    def __init__(self, shop, carts, stock):
        self.carts, self.stock_before = carts, stock
        self.orders = {o: (c, i, int(a), s) for o, c, i, a, s in
                       shop.sql("order", "SELECT id, customer, item, amount, state FROM orders")}
        self.taken = {o: (i, int(a)) for o, i, a in shop.sql("stock", "SELECT order_id, item, amount FROM taken")}
        self.refused = {o for (o,) in shop.sql("stock", "SELECT order_id FROM refused")}
        self.stock = {i: int(a) for i, a in shop.sql("stock", "SELECT item, amount FROM stock")}
        self.cart = {o: (c, i, int(a)) for o, c, i, a in shop.sql("cart", "SELECT order_id, customer, item, amount FROM cart")}
        self.points = {c: int(p) for c, p in shop.sql("points", "SELECT customer, points FROM account")}
        self.letters = [tuple(row) for row in shop.sql("desk", "SELECT subscription, order_id FROM letter")]
        self.given = dict(shop.sql("points", "SELECT key, state FROM txmsg_guard WHERE consumer = 'points'"))

    def faults(self):
        """What does not agree, in words; empty if all does."""
        found = []
        for order, (customer, item, amount) in self.carts.items():
            placed = self.orders.get(order)
            found += self.of_order(order, placed[3] if placed else None, (customer, item, amount))
        found += [f"order {o} is nobody's" for o in self.orders.keys() - self.carts.keys()]
        for item, before in self.stock_before.items():
            taken = sum(a for i, a in self.taken.values() if i == item)
            if self.stock.get(item) != before - taken:
                found.append(f"stock of {item}: {self.stock.get(item)}, but {before} less {taken} taken")
        for customer in {c for c, _, _ in self.carts.values()}:
            want = sum(POINTS_EACH * a for c, _, a, s in self.orders.values() if c == customer and s == "PLACED")
            if self.points.get(customer, 0) != want:
                found.append(f"points of {customer}: {self.points.get(customer, 0)}, but {want} earned")
        return found + self.of_letters()

    def of_letters(self):
        """A refusal of the stock is a dead letter that nobody redrives: the desk hears of it once."""
        told = sorted(order for subscription, order in self.letters if subscription == "orders-stock")
        return [] if told == sorted(self.refused) else [f"dead letters of the stock: {told}, but it has refused {sorted(self.refused)}"]

    def of_order(self, order, state, cart):
        facts = {"taken off the stock": order in self.taken, "refused by the stock": order in self.refused,
                 "in the cart": order in self.cart, "points": self.given.get(order)}
        want = {None: {"taken off the stock": False, "refused by the stock": False, "in the cart": True, "points": None},
                "PLACED": {"taken off the stock": True, "refused by the stock": False, "in the cart": False, "points": "GIVEN"},
                "FAILED": {"taken off the stock": False, "refused by the stock": True, "in the cart": True, "points": "REVOKED"}}
        found = [f"order {order} is {state or 'rolled back'}, but: {name}: {facts[name]}"
                 for name, value in want[state].items() if facts[name] != value]
        if order in self.cart and self.cart[order] != cart:
            found.append(f"order {order}: the cart has {self.cart[order]}, not {cart}")
        if order in self.taken and self.taken[order] != cart[1:]:
            found.append(f"order {order}: {self.taken[order]} was taken off the stock, not {cart[1:]}")
        return found

    def table(self):
        states = [s for *_, s in self.orders.values()]
        return [("orders", f"{len(self.carts)} wanted, {states.count('PLACED')} placed, {states.count('FAILED')} failed, "
                           f"{len(self.carts) - len(states)} rolled back"),
                ("stock", ", ".join(f"{self.stock[i]} {i} of {n}" for i, n in sorted(self.stock_before.items()))),
                ("points", f"{sum(self.points.values())} in {len(self.points)} accounts"),
                ("carts", f"{len(self.cart)} items left"), ("desk", f"{len(self.letters)} dead letters, {len(self.refused)} of them refusals")]
