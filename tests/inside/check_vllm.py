"""Checks a run against vLLM made by tests/inside/vllm: each request joined, its parts adding up and possible, the server's own
histograms and metrics beside ours, and what is known of the server itself.

    check_vllm.py RUN_DIR MAX_NUM_SEQS"""

import sys

from inside_run import ROUNDING_MS, Run, check, end, gauge, mean, name

SCRAPES = 5

run, seqs = Run(sys.argv[1]), int(sys.argv[2])
run.check_joined()
run.check_sums()

# What no clock and no rounding explains. The front end's two halves are taken together: the engine goes on while the front end
# hands out the first token, so that the second half alone is below 0 by as much as that took.
LEAST = {
    "network_up": lambda row: (row.network_up, row.bound_ms),
    "network_down": lambda row: (row.network_down, row.bound_ms),
    "front end": lambda row: (row.sum("front_in", "front_out"), row.bound_ms),
    "queue": lambda row: (row.queue, 0),
    "prefill": lambda row: (row.prefill, 0),
    "decode": lambda row: (row.decode, 0),
}
for part, of in LEAST.items():
    values = [of(row) for row in run.rows]
    unknown = sum(value is None for value, _ in values)
    beyond = [-value - bound for value, bound in values if value is not None and value < -bound - ROUNDING_MS]
    least = min((value for value, _ in values if value is not None), default=float("nan"))
    worst = f", by up to {max(beyond):.3f} ms" if beyond else ""
    check(
        not beyond and not unknown,
        f"{part}: {len(beyond)} of {len(values)} requests beyond what is possible{worst}; {unknown} unknown; least {least:.3f} ms",
    )
named = [(row.id, row.impossible) for row in run.rows if row.impossible]
check(not named, f"waterfall.csv calls {len(named)} of {len(run.rows)} requests impossible {named[:3]}")
bounds = sorted(row.bound_ms * 1e3 for row in run.rows)
print(f"     bound between the clocks: {bounds[len(bounds) // 2]:.1f} µs median, {bounds[-1]:.1f} µs worst")
halves = sum((row.front_out or 0) < 0 for row in run.rows)
print(f"     front_out alone below 0 in {halves} of {len(run.rows)} requests, no sign of anything wrong")

# The server's stamps lie between the client's.
for row in run.rows:
    request = run.requests[row.id]
    bound = row.bound_ms / 1e3 + 1e-6
    arrival, finish = float(row.line["server_arrival_s"]), float(row.line["server_end_s"])
    if not float(request["issued_s"]) - bound <= arrival <= finish <= float(request["done_s"]) + bound:
        check(
            False,
            f"{row.id}: the server's arrival {arrival} and end {finish} lie outside {request['issued_s']} to {request['done_s']}",
        )

for level in run.levels:
    cross = {of["of"]: of for of in (level["server"] or {}).get("cross", [])}
    # Where the first token was the last, vLLM counts it as a first token and sends nothing that a client could see.
    silent = sum(int(request["content_chunks"]) == 0 for request in run.requests_of(level))
    for latency, unseen in (("ttft", silent), ("e2e", 0)):
        of = cross.get(latency)
        counts = of and (of["server_count"], of["client_count"])
        check(
            counts == (level["completed"], level["completed"] - unseen),
            f"{name(level)}: {latency} (server, client) counts {counts}, {unseen} answers without a token to see",
        )
        if of and of["difference_ms"] is not None:
            print(
                f"     {latency}: server {of['server_mean_ms']:.2f} ms, client {of['client_mean_ms']:.2f} ms, "
                f"between {of['difference_ms']:.2f} ms"
            )
            check(of["difference_ms"] > 0, f"{name(level)}: the client's {latency} is beyond the server's")
    queue = cross.get("queue")
    spans = mean(row.queue for row in run.rows_of(level))
    if queue and queue["server_count"] == level["completed"]:
        near = abs(queue["server_mean_ms"] - spans) <= max(0.01 * spans, 0.01)
        check(near, f"{name(level)}: queue by spans {spans:.3f} ms, by the server's histogram {queue['server_mean_ms']:.3f} ms")

crowded = [level for level in run.levels if level["concurrency"] > seqs]
for level in run.levels:
    running, scrapes = gauge(level, "running", "max"), (level["server"] or {}).get("scrapes", 0)
    # Of a level that was over within a few scrapes they may tell nothing.
    least = 1 if scrapes >= SCRAPES else 0
    check(
        least <= running <= seqs,
        f"{name(level)}: {running:.0f} running at most, {gauge(level, 'waiting', 'max'):.0f} waiting, {scrapes} scrapes",
    )
free = max(mean(row.queue for row in run.rows_of(level)) for level in run.levels if level not in crowded)
for level in crowded:
    queue = mean(row.queue for row in run.rows_of(level))
    check(
        queue > 10 * free and queue > 1,
        f"{name(level)}: mean queue {queue:.2f} ms, {free:.3f} ms at most where all fit in the batch",
    )
    # A level that was over within a few scrapes may have had none while anyone waited.
    scrapes, waiting = (level["server"] or {}).get("scrapes", 0), gauge(level, "waiting", "max")
    check(waiting >= 1 or scrapes < SCRAPES, f"{name(level)}: {waiting:.0f} waiting at most by the server's gauge, {scrapes} scrapes")

facts = run.facts()
known = {key: facts.get(key) for key in ("stack", "version", "max_batch", "kv_tokens", "prefix_caching")}
check(known["stack"] == "vllm" and known["version"] and known["prefix_caching"] is True, f"the server: {known}")
check(
    known["max_batch"] == seqs and (known["kv_tokens"] or 0) > 1000, "with the batch that it was started with, and its KV cache"
)

print(
    f"front-end share of the server's own time: { {level['concurrency']: level['inside']['front_share'] for level in run.levels} }"
)
columns = [(part.replace("_", " "), lambda row, part=part: row.parts[part]) for part in run.rows[0].parts]
run.table([*columns, ("E2E", lambda row: row.e2el_ms)])
end()
