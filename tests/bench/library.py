"""What libtxmsg costs: the load of pipeline_256 through it and by the bare tool, in turns."""

from bench.loads import run, value

MOST = 1.10 # CPU of the client per transaction, of that of the bare tool


def library(place):
    service = place.service()
    bare = run(service, ["--callers=256", "--stream"])
    result = run(service, ["--callers=256"], tool="bench-lib")
    ratio = result["cpu_us"]["client"] / bare["cpu_us"]["client"]
    return {**result, "values": {"cpu_ratio": value(round(ratio, 3), MOST, at_most=True)}}
