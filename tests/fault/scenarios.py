"""What producers do with a transaction: the right thing, the right thing twice, late, crossed, or nothing at all.

A scenario gets a caller (see producers.py) and a random generator of its own, and awaits calls. `settle` repeats one until it
has a certain answer; what has none when the load ends is repeated afterwards."""

import asyncio

from . import content

WEIGHTS = {}


def scenario(weight):
    def register(function):
        WEIGHTS[function] = weight
        return function

    return register


def draw(rng):
    return rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]


def asked(rng):
    """Whose endpoint, or whose streams."""
    return rng.choice(("shop", "pull"))


@scenario(26)
async def confirmed(call, rng, make):
    t = make(truth=content.COMMITTED)
    if await call.settle("prepare", t):
        await call.pause(rng.random() * 0.3)
        await call.settle("confirm", t)
        if rng.random() < 0.2:
            await call.once("get", t)


@scenario(10)
async def cancelled(call, rng, make):
    t = make(truth=content.ROLLED_BACK)
    if await call.settle("prepare", t):
        await call.pause(rng.random() * 0.3)
        await call.settle("cancel", t, named=rng.random() < 0.5)
        if rng.random() < 0.2:
            await call.once("get", t)


@scenario(14)
async def published(call, rng, make):
    t = make()
    await call.settle("publish", t)
    if rng.random() < 0.3:
        await call.settle("publish", t)


@scenario(3)
async def published_and_forgotten(call, rng, make):
    """One attempt, whatever becomes of it."""
    await call.once("publish", make())


@scenario(8)
async def checked_committed(call, rng, make):
    await call.settle("prepare", make(producer=asked(rng), truth=content.COMMITTED))


@scenario(5)
async def checked_rolled_back(call, rng, make):
    await call.settle("prepare", make(producer=asked(rng), truth=content.ROLLED_BACK))


@scenario(3)
async def checked_later(call, rng, make):
    await call.settle("prepare", make(producer=asked(rng), truth=content.WAITING))


@scenario(2)
async def stuck(call, rng, make):
    await call.settle("prepare", make(producer="bank", truth=content.UNKNOWN))


@scenario(2)
async def stuck_and_confirmed(call, rng, make):
    """Nobody knows for long; at last the producer does."""
    t = make(producer="bank", truth=content.UNKNOWN)
    if await call.settle("prepare", t):
        call.at_last("confirm", t)


@scenario(2)
async def nobody_answers(call, rng, make):
    """Its check endpoint hangs until the end."""
    await call.settle("prepare", make(producer="ghost", truth=content.COMMITTED))


@scenario(4)
async def late(call, rng, make):
    """The decision comes when checks are under way already."""
    commit = rng.random() < 0.6
    t = make(truth=content.COMMITTED if commit else content.ROLLED_BACK)
    if await call.settle("prepare", t):
        await call.pause(1 + rng.random() * 3)
        await call.settle("confirm" if commit else "cancel", t)


@scenario(5)
async def crossed(call, rng, make):
    """Confirm and Cancel at once: one of them wins."""
    t = make(truth=content.UNKNOWN)
    if await call.settle("prepare", t):
        await asyncio.gather(call.settle("confirm", t), call.settle("cancel", t, named=rng.random() < 0.5))
    else:
        call.at_last("cancel", t)


@scenario(3)
async def contrary(call, rng, make):
    """After one decision the other."""
    first, then = rng.choice((("confirm", "cancel"), ("cancel", "confirm")))
    t = make(truth=content.COMMITTED if first == "confirm" else content.ROLLED_BACK)
    if await call.settle("prepare", t) and await call.settle(first, t):
        await call.settle(then, t)
        await call.settle(first, t)


@scenario(4)
async def overtaking(call, rng, make):
    """The Confirm may arrive before its Prepare."""
    t = make(truth=content.COMMITTED)
    await asyncio.gather(call.settle("prepare", t), call.once("confirm", t))
    await call.settle("confirm", t)


@scenario(4)
async def cancelled_first(call, rng, make):
    """The Cancel may arrive before its Prepare, which then opens nothing."""
    t = make(truth=content.ROLLED_BACK)
    if rng.random() < 0.5:
        await call.settle("cancel", t, named=True)
        await call.settle("prepare", t)
    else:
        await asyncio.gather(call.settle("cancel", t, named=True), call.settle("prepare", t))


@scenario(5)
async def other_content(call, rng, make):
    """Two contents under one id: one of them is stored, the other refused."""
    t = make(truth=content.COMMITTED)
    kind = rng.choice(("prepare", "publish"))
    calls = [call.settle(kind, t, variant=0), call.settle(kind, t, variant=1)]
    if rng.random() < 0.5:
        await asyncio.gather(*calls)
    else:
        for one in calls:
            await one
    await call.settle("confirm", t)


@scenario(4)
async def repeated(call, rng, make):
    """Every call three times at once."""
    t = make(truth=content.COMMITTED)
    await asyncio.gather(*(call.settle("prepare", t) for _ in range(3)))
    await asyncio.gather(*(call.settle("confirm", t) for _ in range(3)))


@scenario(2)
async def by_another_producer(call, rng, make):
    t = make(truth=content.COMMITTED)
    if await call.settle("prepare", t):
        await call.once(rng.choice(("confirm", "cancel")), t, producer="bank")
        await call.settle("confirm", t)


@scenario(2)
async def never_prepared(call, rng, make):
    await call.once(rng.choice(("confirm", "cancel")), make())


@scenario(4)
async def batch(call, rng, make):
    """A mixture of all in one call, two operations on one id among them."""
    steps = []
    for _ in range(rng.randint(5, 40)):
        commit = rng.random() < 0.7
        t = make(truth=content.COMMITTED if commit else content.ROLLED_BACK)
        decision = "confirm" if commit else "cancel"
        steps += rng.choice(([("publish", t)] if commit else [("prepare", t)], [("prepare", t)],
                             [("prepare", t), (decision, t)], [("prepare", t), (decision, t), (decision, t)]))
    await call.batch(steps)


@scenario(0.15)
async def burst(call, rng, make):
    """More at once than a replica's queue takes."""
    await asyncio.gather(*(call.batch([("publish", make()) for _ in range(250)]) for _ in range(2)))
