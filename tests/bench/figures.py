"""All figures: what each does, and what it is to reach on 2 cores."""

from bench import backlog, echo, forward, history, isolation, library, life, recovery, replicas
from bench.loads import run

CHECKED = "checked" # the producer whose open messages bench-echo decides


def load_figure(*arguments):
    """Against the usual service."""
    def measure(place):
        service = place.service()
        if f"--producer={CHECKED}" in arguments:
            checked(place, service)
        return run(service, arguments)
    return measure


def checked(place, service):
    """The producer that bench-echo answers for."""
    check = {"first_after": "1s", "initial": "1s", "max": "1s", "factor": 1,
             "endpoints": [f"grpc://127.0.0.1:{place.echo_port}"]}
    service.apply({"producers": [{"name": CHECKED, "check": check}]})


# Name: (what does it, what a "message" is).
FIGURES = {
    "unary_1": (load_figure("--callers=1"), "Prepare and Confirm, one at a time"),
    "unary_32": (load_figure("--callers=32"), "Prepare and Confirm, 32 callers"),
    "unary_256": (load_figure("--callers=256"), "Prepare and Confirm, 256 callers"),
    "insert": (echo.insert, "a row of 1 KiB, 128 rows per INSERT and commit, one connection"),
    "echo_256": (echo.echo("--callers=256", "--echo"), "one small gRPC call answered at once"),
    "echo_pair_256": (echo.echo("--callers=256"), "Prepare and Confirm answered at once, nothing stored"),
    "publish_256": (load_figure("--callers=256", "--publish"), "Publish, 256 callers"),
    "batch_100": (load_figure("--callers=16", "--batch=100", "--publish"),
                  "Publish in Batch calls of 100, 16 callers"),
    "batch_100x4": (load_figure("--callers=4", "--batch=100"),
                    "Prepare and Confirm in Batch calls of 100, 4 callers"),
    "pipeline_32": (load_figure("--callers=32", "--stream"), "Prepare and Confirm on one stream, 32 in flight"),
    "pipeline_256": (load_figure("--callers=256", "--stream"), "the same, 256 in flight"),
    "pipeline_1024": (load_figure("--callers=1024", "--stream"), "the same, 1,024 in flight"),
    "lib_256": (library.library, "pipeline_256 through libtxmsg; its CPU against that of the bare tool"),
    "duplicates_10": (load_figure("--callers=256", "--duplicated=10"), "unary_256, 10 % of the calls are repeated"),
    "undecided_10": (load_figure("--callers=256", "--undecided=10", f"--producer={CHECKED}"),
                     "unary_256, 10 % are decided by checks"),
    "two_replicas": (replicas.two_replicas, "unary_256 over two connections, to two replicas and to one in turns"),
    "history_10m": (history.history, "unary_256 on a long history and on an empty database in turns"),
    "recovery": (recovery.recovery, "an undecided message, decided by CheckBatch"),
    "recovery_pull": (recovery.recovery_pull, "the same over a stream of Checks, through libtxmsg"),
    "recovery_history": (recovery.recovery_history, "the same on a long history"),
    "forward_http": (forward.http, "accepted and delivered to an HTTP/1.1 consumer, at the rate that both keep up"),
    "forward_rabbitmq": (forward.rabbitmq, "accepted and published to RabbitMQ, persistent and confirmed"),
    "isolation": (isolation.isolation, "accepted at a given rate and delivered, beside bad consumers"),
    "dead_backlog": (isolation.dead_backlog, "delivered to a consumer that was dead for long"),
    "backlog_drain": (backlog.backlog_drain, "unary_32 while a backlog is delivered"),
    "held_snapshot": (life.held_snapshot, "unary_256 under a snapshot that is held"),
    "life_steady": (life.life_steady, "the whole life of a message: unary_256, delivery, retention"),
}
DEFAULT = ["unary_1", "unary_32", "unary_256", "insert", "echo_256", "echo_pair_256"]
ONCE = {"recovery", "recovery_pull", "recovery_history", "isolation", "dead_backlog", "backlog_drain", "held_snapshot", "life_steady"}
# Messages a second to reach, and ratios to another figure of the same run.
GOALS = {"unary_1": 1100, "unary_32": 10000, "unary_256": 17000, "batch_100x4": 60000, "pipeline_32": 24000,
         "pipeline_256": 55000, "pipeline_1024": 75000, "recovery": 5000, "recovery_pull": 5000, "forward_http": 8000,
         "forward_rabbitmq": 6000, "life_steady": 13000}
RATIOS = {"duplicates_10": ("unary_256", 0.75), "undecided_10": ("unary_256", 0.95),
          "recovery_history": ("recovery", 0.90)}
SLOWEST_SECOND = {"undecided_10": 0.80} # of that other figure, in every second
CPU = {"unary_256": {"cpu_server_us": ("txmsgd", 32), "cpu_pg_us": ("postgres", 20)}} # at most
LONG = ["life_steady", "held_snapshot"]
GROUPS = {"goals": [*dict.fromkeys([*GOALS, *RATIOS, "lib_256", "two_replicas", "history_10m", "isolation", "dead_backlog",
                                    "backlog_drain", "held_snapshot"])],
          "all": list(FIGURES)}
GROUPS["short"] = [name for name in GROUPS["goals"] if name not in ONCE and name != "history_10m"]


def choose(names):
    """Names without groups, each once and in the order of the table; what a ratio is taken to is measured too."""
    chosen = {figure for name in names for figure in GROUPS.get(name, [name])}
    chosen |= {RATIOS[name][0] for name in chosen if name in RATIOS}
    return [name for name in FIGURES if name in chosen]
