"""The offline checker: everything that a run left, against DESIGN's invariants.

    python -m fault.checker DIR

Each finding is (number of the invariant, what was seen). Nothing found means: for this run it is proven."""

import pathlib
import sys

if __package__ in (None, ""):
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from fault import check_delivery, check_lanes, check_servers, check_store, check_verdicts, report
from fault.evidence import Evidence

CHECKS = (check_store, check_lanes, check_delivery, check_verdicts, check_servers)


def findings(evidence):
    return [found for module in CHECKS for found in module.check(evidence)]


def check(directory):
    """(findings, figures) of a run's directory."""
    evidence = Evidence(directory)
    return findings(evidence), report.figures(evidence)


if __name__ == "__main__":
    sys.exit(report.show(*check(sys.argv[1]), sys.argv[1]))
