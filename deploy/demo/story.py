"""The story of the quickstart: four orders and what becomes of their messages. What counts is what the consumers wrote
into their own records, not what anybody says."""

import json
import urllib.request

from records import Records
from servers.process import ServerError, wait_until

WAIT_SECONDS = 45


class Story:
    def __init__(self, trace, shop_url, ctl, record_files):
        self.trace = trace
        self.shop_url = shop_url
        self.ctl = ctl
        self.records = {who: Records(path) for who, path in record_files.items()}
        self.never = [] # transactions that must not be delivered

    def play(self):
        """Plays all of it; answers (steps seen, steps)."""
        steps = [self.confirmed, self.lost_confirm, self.rolled_back, self.refused_at_first]
        seen = 0
        for step in steps:
            try:
                step()
                seen += 1
            except (ServerError, OSError) as error:
                self.trace.bad(str(error))
        late = [t for t in self.never if any(r.of_transaction(t)[0] for r in self.records.values())]
        if late:
            self.trace.bad(f"rolled back and delivered all the same: {', '.join(late)}")
            seen -= 1
        return seen, len(steps)

    def order(self, **wanted):
        request = urllib.request.Request(f"{self.shop_url}/orders", json.dumps(wanted).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            done = json.load(answer)
        for step in done["steps"]:
            self.trace.event("shop", step["text"], step["at"])
        return done["transaction_id"]

    def recorded(self, transaction_id):
        """Waits until both consumers have it in their records, once."""
        events = []
        for who, store in self.records.items():
            rows, refused = wait_until(lambda store=store: self.found(store, transaction_id), WAIT_SECONDS,
                                       f"{who} records {transaction_id}")
            if len(rows) != 1:
                raise ServerError(f"{who} recorded {len(rows)} messages of {transaction_id}")
            also = f", after it refused {refused} times" if refused else ""
            events.append((rows[0][1], who, f"recorded {rows[0][0]}{also}"))
        for at, who, text in sorted(events):
            self.trace.event(who, text, at)

    @staticmethod
    def found(store, transaction_id):
        rows, refused = store.of_transaction(transaction_id)
        return (rows, refused) if rows else None

    def decided(self, transaction_id, decision):
        """Waits until a check brought this decision."""
        def state():
            found = self.ctl.run("--json", "get", transaction_id).stdout
            view = json.loads(found) if found.strip() else {}
            view = view.get("transaction", view)
            return view if str(view.get("decision", "")).endswith(decision) else None

        view = wait_until(state, WAIT_SECONDS, f"{transaction_id} is {decision}", interval=0.1)
        if not str(view.get("origin", "")).endswith("CHECK"):
            raise ServerError(f"{transaction_id} was decided by {view.get('origin')}, not by a check")
        with urllib.request.urlopen(f"{self.shop_url}/checks", timeout=10) as answer:
            answers = [verdict for asked, verdict in json.load(answer) if asked == transaction_id]
        self.trace.event("txmsg", f"asked the shop what became of it: {', '.join(answers)}")

    def confirmed(self):
        self.trace.heading("1. An order is committed and confirmed: both consumers get its message.")
        self.recorded(self.order(item="tea", amount=12))
        self.trace.good("delivered once to each consumer")

    def lost_confirm(self):
        self.trace.heading("2. An order is committed, but its Confirm is lost: txmsg asks the shop, then delivers.")
        transaction_id = self.order(item="coffee", amount=9, rehearse="lose-confirm")
        self.decided(transaction_id, "COMMITTED")
        self.recorded(transaction_id)
        self.trace.good("nothing was lost with the Confirm")

    def rolled_back(self):
        self.trace.heading("3. An order is rolled back and nobody says so: txmsg asks the shop and never delivers.")
        transaction_id = self.order(item="cake", amount=3, rehearse="rollback")
        self.never.append(transaction_id)
        self.decided(transaction_id, "ROLLED_BACK")
        self.trace.event("shop", "places one more order, to see that it overtakes nothing")
        self.recorded(self.order(item="milk", amount=2))
        for who, store in self.records.items():
            if store.of_transaction(transaction_id)[0]:
                raise ServerError(f"{who} got a message that was rolled back")
        self.trace.good("no consumer has ever seen it")

    def refused_at_first(self):
        self.trace.heading("4. The HTTP consumer refuses twice: txmsg tries again until it accepts.")
        transaction_id = self.order(item="sugar", amount=5, refuse_first=2)
        self.recorded(transaction_id)
        refused = self.records["HTTP consumer"].of_transaction(transaction_id)[1]
        if refused != 2:
            raise ServerError(f"the HTTP consumer refused {refused} times, not 2")
        self.trace.good("delivered at the third attempt; the RabbitMQ consumer did not wait for it")
