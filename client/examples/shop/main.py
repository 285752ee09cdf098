#!/usr/bin/python3
"""Starts the shop, plays the classic cases or many orders with faults, and closes the books. Called by client/examples/shop/run."""

import argparse
import os
import pathlib
import random
import shutil
import signal
import sys

import world
from servers.process import ServerError, base_directory

from faults import Load
from narrator import Trace
from cases import Desk, Story


class Stopped(Exception):
    """Ctrl-C or SIGTERM."""


def raise_stopped(number, frame):
    raise Stopped(number)


def books(trace, desk):
    """True if they agree."""
    trace.heading("The books: orders, stock, points and carts, from the databases of the services.")
    audit = desk.audit()
    for name, text in audit.table():
        trace.note(f"  {name:<8} {text}")
    faults = audit.faults()
    for fault in faults:
        trace.bad(fault)
    if not faults:
        trace.good("they agree")
    return not faults


def play(args, base, trace, stack):
    load = args.orders is not None
    trace.heading("Starting")
    shop = world.Shop(pathlib.Path(args.build).resolve(), base, trace, queue_max=1000 if load else 1, attempts=100 if load else 6)
    stack.append(shop)
    shop.start()
    desk = Desk(shop, trace, {"tea": 3 * args.orders, "gold": args.orders // 20} if load else {"tea": 100, "gold": 4})
    if load:
        good = Load(shop, trace, desk, args.orders, args.faults, args.seed).run()
    else:
        seen, steps = Story(shop, trace, desk).play()
        trace.heading(f"{seen} of {steps} cases went as they should.")
        good = seen == steps
    if args.cheat:
        shop.postgres.psql("UPDATE account SET points = points + 1", "points")
    return books(trace, desk) and good


def main():
    parser = argparse.ArgumentParser(prog="run", description="The shop: four services on txmsg, and what can go wrong")
    parser.add_argument("--build", default="build", help=argparse.SUPPRESS)
    parser.add_argument("--orders", type=int, metavar="N", help="instead of the story: place N orders")
    parser.add_argument("--faults", action="store_true", help="with --orders: kill services and lose answers at random")
    parser.add_argument("--seed", type=int, help="of the orders and faults (default: by chance)")
    parser.add_argument("--cheat", action="store_true", help=argparse.SUPPRESS) # for the test of the books: they must not agree
    parser.add_argument("--keep", action="store_true", help="keep the data directory with its logs")
    args = parser.parse_args()
    if args.orders is not None and args.orders < 1 or args.faults and args.orders is None:
        parser.error("--orders is 1 or more, and --faults needs it")
    args.seed = random.randrange(1 << 31) if args.seed is None else args.seed
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, raise_stopped)
    trace, stack, code, base = Trace(), [], 1, None
    try:
        base = base_directory()
        code = 0 if play(args, base, trace, stack) else 1
    except Stopped as stopped:
        code = 128 + stopped.args[0]
    except (ServerError, OSError) as error:
        print(f"shop: {error}", file=sys.stderr)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for shop in stack:
            shop.stop()
        if args.orders is not None:
            trace.note(f"seed {args.seed}")
        if base and (args.keep or (code == 1 and not args.cheat)):
            trace.note(f"The logs and data are kept: {base}")
        elif base:
            shutil.rmtree(base, ignore_errors=True)
    return code


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
