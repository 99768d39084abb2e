"""Checks the searches of tests/real_model/run: each finds the TTFT cliff just past the server's slots, and says that requests
wait for one."""

import json
import sys
from pathlib import Path

SLOTS = 4


def check(holds, text):
    print(("ok   " if holds else "FAIL ") + text)
    if not holds:
        sys.exit(1)


for run in map(Path, sys.argv[1:]):
    summary = json.loads((run / "summary.json").read_text())
    cliff, loads = summary["cliff"], [level["concurrency"] for level in summary["levels"]]
    print(f"{run.name}: levels {loads}, {summary['search']}")
    print("  ", cliff["words"])
    at = cliff["estimate"] and cliff["estimate"]["at"]
    check(at is not None and SLOTS < at < 2 * SLOTS, f"the TTFT cliff is at {at}, between {SLOTS} and {2 * SLOTS} streams")
    # Where the knee is elsewhere, the cliff has a cause of its own.
    diagnosis = summary["cliff_diagnosis"] or summary["diagnosis"]
    print("  ", diagnosis and diagnosis["words"])
    check(diagnosis is not None and diagnosis["cause"] == "server queue", "and its cause is the server's queue")
