#!/usr/bin/python3
"""A RabbitMQ consumer: records each message of a queue once, in a SQLite file of its own, and then acknowledges it."""

import argparse
import os
import sys
import time

import pika
import pika.exceptions

import records


def consume(url, queue, store):
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare(queue, durable=True)
    channel.basic_qos(prefetch_count=100)
    print(f"RabbitMQ consumer: queue {queue}", file=sys.stderr, flush=True)
    for method, properties, body in channel.consume(queue):
        store.add(properties.message_id or "", body.decode(errors="replace"), time.time())
        channel.basic_ack(method.delivery_tag)


def main():
    parser = argparse.ArgumentParser(description="demo RabbitMQ consumer")
    parser.add_argument("--records", required=True, help="SQLite file")
    parser.add_argument("--queue", required=True)
    args = parser.parse_args()
    store = records.Records(args.records)
    while True:
        try:
            consume(os.environ["AMQP_URL"], args.queue, store)
        except pika.exceptions.AMQPError as error:
            print(f"RabbitMQ consumer: {error!r}, trying again", file=sys.stderr, flush=True)
            time.sleep(0.5)


if __name__ == "__main__":
    main()
