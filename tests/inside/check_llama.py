"""Checks a run against llama.cpp made by tests/inside/llama: each reply's own timings joined, and waiting for one of its slots
told as queue and not as prefill.

    check_llama.py RUN_DIR"""

import sys

from inside_run import ROUNDING_MS, Run, check, end, gauge, mean, name

SLOTS = 4
# Of waiting by the server's own gauge, and by our own account.
LITTLE = 0.3

run = Run(sys.argv[1])
run.check_joined()
run.check_sums()
check({row.line["source"] for row in run.rows} == {"reply"}, "all by the timings of their replies")
timed = [r for r in run.requests.values() if r["server_prefill_ms"] and r["server_decode_ms"]]
check(
    len(timed) == len(run.requests), f"requests.csv has the server's prefill and decode of {len(timed)} of {len(run.requests)}"
)
for part in ("prefill", "decode"):
    same = all(abs(row.parts[part] - float(run.requests[row.id][f"server_{part}_ms"])) <= ROUNDING_MS for row in run.rows)
    check(same, f"{part} is as the reply has it")
negative = [row.queue for row in run.rows if row.queue < 0]
check(
    not negative,
    f"{len(negative)} of {len(run.rows)} requests with a queue below 0, the least {min(negative, default=0):.3f} ms",
)

prefill = {level["concurrency"]: mean(row.prefill for row in run.rows_of(level)) for level in run.levels}
queue = {level["concurrency"]: mean(row.queue for row in run.rows_of(level)) for level in run.levels}
for level in run.levels:
    at = level["concurrency"]
    rows = run.rows_of(level)
    ttft = mean(float(run.requests[row.id]["ttft_ms"]) for row in rows)
    # llama.cpp answers with its head when a slot begins the prompt: a second account of the queue, by the client's clock alone.
    heads = mean((float(r["headers_s"]) - float(r["sent_s"])) * 1e3 for r in run.requests_of(level))
    check(
        abs(queue[at] - heads) <= max(0.05 * heads, 50),
        f"{name(level)}: queue {queue[at]:.0f} ms, until the head came {heads:.0f} ms",
    )
    check(
        not (level["server"] or {}).get("cross"),
        f"{name(level)}: no histograms of the server to compare with, and none made up",
    )
    if at > SLOTS:
        check(queue[at] > 0.5 * ttft, f"{name(level)}: queue {queue[at]:.0f} of a TTFT of {ttft:.0f} ms")
        rise = queue[at] - queue[SLOTS]
        check(
            prefill[at] - prefill[SLOTS] < 0.2 * rise,
            f"{name(level)}: prefill {prefill[at]:.0f} ms, {prefill[SLOTS]:.0f} with all slots busy",
        )
    if at >= 2 * SLOTS:
        # Little's law: how many wait is how many come in a second times how long each waits.
        waiting = gauge(level, "waiting", "mean")
        expected = queue[at] / 1e3 * len(rows) / level["duration"]
        off = waiting / expected - 1
        check(
            abs(off) <= LITTLE,
            f"{name(level)}: {waiting:.2f} waiting by the server's gauge, {expected:.2f} by the queue parts ({off:+.0%})",
        )
facts = run.facts()
check(facts["stack"] == "llama.cpp", f"the server: { {key: facts.get(key) for key in ('stack', 'version', 'max_batch')} }")

columns = [
    (part, lambda row, part=part: row.parts[part])
    for part in ("connect", "write", "queue", "prefill", "decode", "network_down", "read")
]
columns += [("TTFT", lambda row: float(run.requests[row.id]["ttft_ms"])), ("E2E", lambda row: row.e2el_ms)]
run.table(columns)
end()
