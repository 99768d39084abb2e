"""Checks two runs of `tailcliff coldwarm` made by tests/real_model/run: restarts that dropped the model's file from the page cache
against restarts that had read it before. What the disk did must be told; whether it dominates depends on how fast it is."""

import json
import sys
from pathlib import Path

MODEL_BYTES = 253e6
cold, warm = (json.loads((Path(path) / "coldwarm.json").read_text()) for path in sys.argv[1:3])


def check(holds, text):
    print(("ok   " if holds else "FAIL ") + text)
    if not holds:
        sys.exit(1)


def term(restart, name="storage_to_ram"):
    return sum(t["ns"] for t in restart["startup"]["terms"] if t["term"] == name) / 1e9


def best(run, of):
    """The quietest restart: others on this host read its disks too."""
    return min(of(restart) for restart in run["restarts"])


def read(restart):
    return restart["startup"]["seen"]["disk_read_bytes"]


for name, run in (("cold", cold), ("warm", warm)):
    check(run["ending"] == "complete" and len(run["restarts"]) == 2, f"{name}: both restarts carried through")
    for restart in run["restarts"]:
        print(
            f"     {name} restart {restart['restart']}: ready after {restart['ready_s']:.2f} s, of which storage → RAM "
            f"{term(restart):.2f} s; {read(restart) / 1e6:.0f} MB read; verdict {restart['startup']['verdict']['term']} "
            f"({restart['startup']['verdict']['confidence']}); TTFT penalty {restart['cold_penalty']['ttft']:.2f}"
        )
        runs = restart["runs"]
        check(all(r["completed"] for r in runs), f"{name} restart {restart['restart']}: {len(runs)} requests completed")
        check(restart["process"]["command"], f"{name} restart {restart['restart']}: the server's command line is known")

check(best(cold, read) >= 0.9 * MODEL_BYTES, f"cold: the disk gave the model's {MODEL_BYTES / 1e6:.0f} MB each time")
check(best(cold, term) > 0, "cold: storage → RAM has its seconds")
check(best(warm, read) < 0.5 * MODEL_BYTES, f"warm: {best(warm, read) / 1e6:.0f} MB read at the least, which is no model")
check(best(warm, term) < best(cold, term), f"storage → RAM: {best(cold, term):.2f} s cold, {best(warm, term):.2f} s warm")
check(warm["startup"]["term"] != "storage_to_ram", f"warm is not told as A: {warm['startup']['because'][:120]}")
told = [r["startup"]["verdict"] for r in cold["restarts"]]
share = max(term(r) / r["ready_s"] for r in cold["restarts"])
print(f"cold: storage → RAM took at most {share:.0%} of the time to ready; told as {[v['term'] for v in told]}")
check(share < 0.5 or any(v["term"] == "storage_to_ram" for v in told), "cold is told as A where A has half of the time")
