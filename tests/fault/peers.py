"""The other side: check endpoints, HTTP consumers and RabbitMQ consumers, in one process.

    python -m fault.peers CONFIG     CONFIG is a JSON file: seed, directory, port, rabbit, targets (of the streams of `pull`)

They misbehave, by the seed, until a line `calm` comes on standard input; the endpoint of `ghost` answers nothing until `open`,
and `void` neither, but for breaks in which it does, unless CONFIG forbids them by `dead_sink`: until `calm`. `finish` ends the
process."""

import asyncio
import collections
import contextlib
import functools
import json
import pathlib
import random
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from harness import protos

protos.generate()

import pika

from fault import content, streams
from fault.history import Recorder

HANG = 6     # seconds: longer than any timeout of the other side
TICK = 0.05  # seconds between two looks at the own lateness
BREAK = 30   # seconds that `void` is dead, and then alive
STALL = 0.15 # seconds of lateness that are worth a note
REASONS = {200: "OK", 404: "Not Found", 410: "Gone", 500: "Internal Server Error"}


def another(tx):
    return tx[:-1] + ("0" if tx[-1] != "0" else "1")


class Peers:
    def __init__(self, config):
        self.config = config
        self.calm, self.open = asyncio.Event(), asyncio.Event()
        self.never = asyncio.Event()
        self.checks = Recorder(config["directory"], "checks")
        self.consumers = {name: Recorder(config["directory"], name) for name in content.HTTP}
        self.rng = random.Random(f"{config['seed']} peers")
        self.asked = collections.Counter()
        self.begin = time.monotonic()

    async def watch_itself(self):
        """Notes when this process was late itself: what it recorded then may have arrived long before."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.never.wait(), TICK)
            now = loop.time()
            if now - last > TICK + STALL:
                self.checks.fact("stalled", seconds=round(now - last, 3))
            last = now

    # --- check endpoints ---

    def verdict(self, key, tx):
        truth = key.partition("-")[0]
        if truth == content.WAITING:
            self.asked[tx] += 1
            return "COMMITTED" if self.asked[tx] > 2 else "UNKNOWN"
        return {content.COMMITTED: "COMMITTED", content.ROLLED_BACK: "ROLLED_BACK"}.get(truth, "UNKNOWN")

    async def check(self, path, headers, body):
        """(status, body, hang first): what to answer, and into the history whether that is an answer at all."""
        asked = json.loads(body)
        tx, where = asked["transactionId"], path.removeprefix("/check/")
        op = self.checks.invoke("check", tx=tx, at=where, producer=asked["producer"], count=asked["checkCount"])
        how, answer, hang = self.mood(where, tx), None, False
        if where == "bank/broken":
            how = "500"
        if where == "ghost" and not self.open.is_set():
            how = "hang"
        if how == "answer":
            answer = self.verdict(asked["businessKey"], tx)
            reply = (200, json.dumps({"transactionId": tx, "decision": answer}).encode())
        elif how == "hang":
            reply, hang = (200, json.dumps({"transactionId": tx, "decision": "ROLLED_BACK"}).encode()), True
        else:
            reply = {"500": (500, b"broken"), "404": (404, b'{"decision":"ROLLED_BACK"}'), "html": (200, b"<html>all is well</html>"),
                     "other": (200, json.dumps({"transactionId": another(tx), "decision": "ROLLED_BACK"}).encode())}[how]
        self.checks.end(op, "ok", mood=how, **({"answer": answer} if answer else {}))
        return *reply, hang

    async def pulled(self, where, check, stream):
        """The answer of an instance of `pull`: an id and a verdict, or none; or it dies over the question."""
        tx = check.transaction_id
        where = f"{where}.{stream}"
        op = self.checks.invoke("check", tx=tx, at=where, producer=check.producer, count=check.check_count)
        how = self.mood(where, tx, ("answer", "other", "hang", "die"), (85, 6, 6, 3))
        answer = self.verdict(check.business_key, tx) if how == "answer" else None
        self.checks.end(op, "ok", mood=how, **({"answer": answer} if answer else {}))
        if how == "die":
            raise EOFError
        return (tx, answer) if answer else (another(tx), "ROLLED_BACK") if how == "other" else None

    def mood(self, where, tx, moods=("answer", "500", "404", "html", "other", "hang"), weights=(80, 5, 4, 4, 4, 3)):
        if self.calm.is_set():
            return "answer"
        return self.rng.choices(moods, weights)[0]

    # --- consumers ---

    def void_is_dead(self):
        """A worker adopts a bounded number of lanes and keeps each until every subscription has passed it, so a consumer that
        is dead for long takes their places when many workers die."""
        if self.open.is_set():
            return False
        return self.config["dead_sink"] or self.calm.is_set() or int(time.monotonic() - self.begin) // BREAK % 2 == 0

    async def deliver(self, path, headers, body):
        name = path.removeprefix("/sink/")
        tx, n = headers["webhook-id"][:36], int(headers["webhook-id"][37:])
        history = self.consumers[name]
        op = history.invoke("deliver", m=f"{tx}.{n}", attempt=int(headers["txmsg-attempt"]),
                            sha=content.digest(body, headers.get("x-variant")))
        how = "ok"
        if name == "void" and self.void_is_dead():
            how = "hang"
        elif name == "strict" and content.refused_for_good(tx, n):
            how = "gone"
        elif not self.calm.is_set():
            how = self.rng.choices(("ok", "500", "hang", "late"), (93, 4, 1, 2) if name != "strict" else (60, 38, 0, 2))[0]
        # `late`: the message was taken, but the answer comes too late.
        history.end(op, {"ok": "ok", "late": "info"}.get(how, "fail"), mood=how)
        return {"ok": 200, "gone": 410, "500": 500}.get(how, 200), b"", how in ("hang", "late")

    # --- HTTP, as much as it takes ---

    async def serve(self, reader, writer):
        try:
            while line := await reader.readline():
                path, headers = line.split()[1].decode(), {}
                while (header := (await reader.readline()).strip()):
                    name, _, value = header.decode().partition(":")
                    headers[name.strip().lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, text, hang = await (self.check if path.startswith("/check") else self.deliver)(path, headers, body)
                if hang:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.never.wait(), HANG)
                writer.write(f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
                await writer.drain()
                if hang:
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass # replicas die, that is what this is about
        except Exception as error:
            self.checks.fact("broken", error=repr(error))
            raise
        finally:
            writer.close()


class RabbitConsumer(threading.Thread):
    """Consumes one queue, acknowledging each message; connects again as often as it takes."""

    def __init__(self, config, name, queue):
        super().__init__(daemon=True)
        self.url, self.queue = config["rabbit"], queue
        self.history = Recorder(config["directory"], name)
        self.stopping = threading.Event()

    def run(self):
        while not self.stopping.is_set():
            try:
                self.consume()
            except (pika.exceptions.AMQPError, OSError) as error:
                self.history.fact("disconnected", error=type(error).__name__)
                self.stopping.wait(0.3)

    def consume(self):
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            channel = connection.channel()
            channel.queue_declare(self.queue, durable=True)
            channel.basic_qos(prefetch_count=100)
            self.history.fact("connected")
            channel.basic_consume(self.queue, functools.partial(self.take))
            while not self.stopping.is_set():
                connection.process_data_events(0.2)
        finally:
            with contextlib.suppress(pika.exceptions.AMQPError):
                connection.close()

    def take(self, channel, method, properties, body):
        tx, n = properties.message_id[:36], int(properties.message_id[37:])
        headers = properties.headers or {}
        op = self.history.invoke("deliver", m=f"{tx}.{n}", attempt=int(headers.get("txmsg-attempt", 0)),
                                 sha=content.digest(body, headers.get("x-variant")),
                                 **({"redelivered": True} if method.redelivered else {}))
        channel.basic_ack(method.delivery_tag)
        self.history.end(op, "ok")


async def main(path):
    config = json.loads(pathlib.Path(path).read_text())
    signal.signal(signal.SIGINT, signal.SIG_IGN) # the runner says when it is over
    peers = Peers(config)
    consumers = [RabbitConsumer(config, name, queue) for name, queue in content.RABBIT.items()] if config["rabbit"] else []
    for consumer in consumers:
        consumer.start()
    server = await asyncio.start_server(peers.serve, "127.0.0.1", config["port"], backlog=512, limit=1 << 20)
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(peers.watch_itself())]
    for i, target in enumerate(config["targets"] * 2): # two instances at each replica
        decide = functools.partial(peers.pulled, f"pull/{i}")
        tasks.append(loop.create_task(streams.answer_checks(target, "pull", decide)))
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("listening", flush=True)
    while (line := (await reader.readline()).decode().strip()) not in ("", "finish"):
        peers.checks.fact(line)
        {"calm": peers.calm, "open": peers.open}[line].set()
    server.close()
    for task in tasks:
        task.cancel()
    for consumer in consumers:
        consumer.stopping.set()
    for consumer in consumers:
        consumer.join(10)
        consumer.history.close()
    for history in (peers.checks, *peers.consumers.values()):
        history.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1])))
