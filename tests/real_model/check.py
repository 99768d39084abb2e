"""Checks a run of tests/real_model/run against what is known of the server: every request accounted for, tokens as the server
itself counted them, and the TTFT cliff just past its slots."""

import csv
import json
import sys
import urllib.request
from pathlib import Path

SLOTS = 4
CONCURRENCY = [1, 2, 4, 8, 16]
REQUESTS = 24
OUTPUT_LEN = 24
PREFLIGHT_TOKENS = 4
# Just past the slots a request waits for another's whole reply, which is many first tokens long.
JUMP = 3

run, url, turn = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
summary = json.loads((run / "summary.json").read_text())
requests = list(csv.DictReader((run / "requests.csv").open()))


def check(holds, text):
    print(("ok   " if holds else "FAIL ") + text)
    if not holds:
        sys.exit(1)


levels = [level["concurrency"] for level in summary["levels"]]
check(levels == CONCURRENCY, f"levels {levels}")
check(len(requests) == len(CONCURRENCY) * REQUESTS, f"{len(requests)} requests in requests.csv")
ids = {r["request_id"] for r in requests}
check(len(ids) == len(requests), "each with an id of its own")

for level in summary["levels"]:
    ended = level["completed"] + level["failed"] + level["incomplete"] + level["unreported"]
    check(level["released"] == ended == REQUESTS, f"level {level['concurrency']}: {REQUESTS} released, {ended} accounted for")
    check(level["failed"] == 0, f"level {level['concurrency']}: none failed")

tokens = sum(int(r["output_tokens"]) for r in requests)
check(all(r["token_source"] == "usage" for r in requests), "every token count is the server's own usage")
check(tokens == len(requests) * OUTPUT_LEN, f"{tokens} tokens = {len(requests)} requests × {OUTPUT_LEN}")
check(tokens == sum(level["total_output_tokens"] for level in summary["levels"]), "summary has the same tokens")

metrics = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
line = next(l for l in metrics.splitlines() if l.startswith("llamacpp:tokens_predicted_total"))
predicted = int(float(line.split()[-1]))
before = predicted - turn * tokens
check(0 <= before <= turn * PREFLIGHT_TOKENS, f"the server's own counter: {predicted}, of which preflights ≤ {turn * PREFLIGHT_TOKENS}")

arrivals = {}
for row in csv.DictReader((run / "token_trace.csv").open()):
    if row["event"] == "token_chunk":
        arrivals[row["request_id"]] = arrivals.get(row["request_id"], 0) + 1
check(len(arrivals) == len(requests) and all(n > 1 for n in arrivals.values()), "every request has its token arrivals")

ttft = {level["concurrency"]: level["median_ttft_ms"] for level in summary["levels"]}
print("TTFT p50, ms, by level:", {c: round(ms) for c, ms in ttft.items()})
print("throughput knee as found:", json.dumps(summary["knee"])[:300])
before, after = ttft[SLOTS], ttft[2 * SLOTS]
check(after >= JUMP * before, f"TTFT p50 jumps just past the {SLOTS} slots: {before:.0f} ms at {SLOTS}, {after:.0f} ms at {2 * SLOTS}")
cliff = summary["cliff"]
print("cliff as found:", cliff["words"])
check(cliff["concurrency"] == 2 * SLOTS, f"the TTFT cliff is at {cliff['concurrency']}, just past the {SLOTS} slots")
# Where the knee is elsewhere, the cliff has a cause of its own.
diagnosis = summary["cliff_diagnosis"] or summary["diagnosis"]
print("why:", diagnosis and diagnosis["words"])
check(diagnosis is not None and diagnosis["cause"] == "server queue", "and its cause is the server's queue")
