#!/usr/bin/python3
"""The shop: a producer application with a database of its own.

    POST /orders {"item": "tea", "amount": 12}      places an order
    POST /check                                     txmsg asks what became of a transaction

An order is one local transaction between Prepare and Confirm:

    Prepare        txmsg keeps the message, nobody sees it
    local commit   the order and the outcome of the transaction, in one database transaction
    Confirm        txmsg delivers

If the Confirm does not come, txmsg asks here. `local_transaction` is the fence that makes the answer final: its key is
the transaction. The order's database transaction inserts COMMITTED; the check inserts ROLLED_BACK where there is no row,
so that a local transaction that is late cannot commit any more. While that local transaction still runs, the check waits
for its row, gives up, and answers UNKNOWN.
"""

import argparse
import http.server
import json
import os
import sys
import time
import uuid

import grpc
import psycopg2
import psycopg2.errors

import stubs
import webhook

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL,
    amount int NOT NULL, transaction_id uuid NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS local_transaction (transaction_id uuid PRIMARY KEY,
    outcome text NOT NULL CHECK (outcome IN ('COMMITTED', 'ROLLED_BACK')));
"""


def uuid7():
    """Time in milliseconds, then random bits: the form of id that txmsg asks for."""
    value = int.from_bytes(os.urandom(16), "big")
    value = (int(time.time() * 1000) << 80) | (value & ((1 << 80) - 1))
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return str(uuid.UUID(int=value))


class Shop:
    def __init__(self, dsn, target, secret):
        from txmsg.v1 import message_service_pb2, message_service_pb2_grpc, transaction_pb2

        self.rpc, self.tx = message_service_pb2, transaction_pb2
        self.dsn = dsn
        self.secret = secret
        self.stub = message_service_pb2_grpc.MessageServiceStub(grpc.insecure_channel(target))
        self.checks = [] # (transaction id, answer), for the story
        with self.connect() as db, db.cursor() as sql:
            sql.execute(SCHEMA)

    def connect(self):
        return psycopg2.connect(self.dsn)

    @staticmethod
    def call(method, request):
        """An outcome that is not known is found out by repeating the same call under the same id."""
        for attempt in range(5):
            try:
                return method(request, timeout=5)
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED) or attempt == 4:
                    raise
                time.sleep(0.2 * 2 ** attempt)

    def order(self, item, amount, rehearse="", refuse_first=0):
        """Places an order; answers what was done, step by step. `rehearse` plays a mishap: "lose-confirm", "rollback"."""
        transaction_id, steps = uuid7(), []

        def step(text):
            steps.append({"at": time.time(), "text": text})

        body = json.dumps({"item": item, "amount": amount, "refuse_first": refuse_first}).encode()
        prepared = self.call(self.stub.Prepare, self.rpc.PrepareRequest(
            transaction_id=transaction_id, producer="shop", business_key=f"{item}/{transaction_id[-12:]}",
            messages=[self.tx.Message(topic="orders", key=item.encode(), body=body, content_type="application/json",
                                      headers={"shop": "demo"})]))
        step(f"Prepare {transaction_id}: {self.state(prepared)}")
        number = self.local_transaction(transaction_id, item, amount, rehearse == "rollback")
        if number is None:
            step("the order is rolled back in the shop's database; no Cancel is sent")
        else:
            step(f"order {number} is committed in the shop's database")
            if rehearse == "lose-confirm":
                step("the Confirm is lost")
            else:
                confirmed = self.call(self.stub.Confirm, self.rpc.ConfirmRequest(transaction_id=transaction_id,
                                                                                 producer="shop"))
                step(f"Confirm: {self.state(confirmed)}")
        return {"transaction_id": transaction_id, "order": number, "steps": steps}

    def state(self, response):
        name = self.tx.TransactionState.Name(response.status.state)
        return name.removeprefix("TRANSACTION_STATE_")

    def local_transaction(self, transaction_id, item, amount, rollback):
        """The order's number, or None if it was rolled back."""
        db = self.connect()
        try:
            with db.cursor() as sql:
                sql.execute("INSERT INTO orders (item, amount, transaction_id) VALUES (%s, %s, %s) RETURNING number",
                            (item, amount, transaction_id))
                number = sql.fetchone()[0]
                sql.execute("INSERT INTO local_transaction VALUES (%s, 'COMMITTED')", (transaction_id,))
            if rollback:
                db.rollback()
                return None
            db.commit()
            return number
        finally:
            db.close()

    def check(self, transaction_id):
        db = self.connect()
        try:
            with db, db.cursor() as sql:
                sql.execute("SET LOCAL lock_timeout = '1s'")
                sql.execute("INSERT INTO local_transaction VALUES (%s, 'ROLLED_BACK') ON CONFLICT DO NOTHING",
                            (transaction_id,))
            with db, db.cursor() as sql:
                sql.execute("SELECT outcome FROM local_transaction WHERE transaction_id = %s", (transaction_id,))
                answer = sql.fetchone()[0]
        except psycopg2.errors.LockNotAvailable:
            answer = "UNKNOWN" # the local transaction still runs
        finally:
            db.close()
        self.checks.append((transaction_id, answer))
        return answer


class Handler(http.server.BaseHTTPRequestHandler):
    shop = None
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if self.path == "/check":
                if not webhook.verify(self.shop.secret, self.headers, body):
                    return self.answer(401, {"error": "the signature is wrong"})
                asked = json.loads(body)
                transaction_id = str(uuid.UUID(asked["transactionId"]))
                return self.answer(200, {"transactionId": asked["transactionId"],
                                         "decision": self.shop.check(transaction_id)})
            if self.path == "/orders":
                wanted = json.loads(body)
                return self.answer(200, self.shop.order(
                    str(wanted["item"]), int(wanted.get("amount", 1)), wanted.get("rehearse", ""),
                    int(wanted.get("refuse_first", 0))))
            return self.answer(404, {"error": "POST /orders or /check"})
        except (ValueError, KeyError, TypeError) as error:
            return self.answer(400, {"error": str(error)})
        except (grpc.RpcError, psycopg2.Error) as error:
            return self.answer(503, {"error": str(error)})

    def do_GET(self):
        if self.path == "/checks":
            return self.answer(200, self.shop.checks)
        return self.answer(404, {"error": "POST /orders or /check"})

    def answer(self, status, value):
        data = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main():
    parser = argparse.ArgumentParser(description="demo producer")
    parser.add_argument("--dsn", required=True, help="the shop's own database")
    parser.add_argument("--txmsg", required=True, help="HOST:PORT of txmsgd")
    parser.add_argument("--stubs", required=True, help="directory of the generated code")
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    stubs.load(args.stubs)
    Handler.shop = Shop(args.dsn, args.txmsg, os.environ["SHOP_CHECK_SECRET"])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    server.daemon_threads = True
    print(f"shop: listening on {args.port}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
