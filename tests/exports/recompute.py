"""Recomputes the figures of a run from its per-request files, and holds them against summary.json.

    python3 recompute.py RUN_DIR [--parquet] [--goodput ttft:500 tpot:50] [--clock-ppm N] [--write-table FILE]

Written without a look at how tailcliff computes them, from the definitions alone:

  TTFT  intended send to first token          TPOT  (last - first token) / (output tokens - 1)
  ITL   gap between two content chunks        E2E   intended send to end
  Pxx   the smallest value that at least xx % of all values do not exceed (nearest rank)

of the completed requests of the measured phase that the client did not pause on purpose. Throughput is counted over the window that
summary.json names: in closed loop a completed request counts by the share of its life within the window, and so do its
tokens; in open loop it counts where it ends. A request is good when it completed and keeps every limit, of ITL with its
longest gap; one token has no TPOT and no ITL, and keeps a limit on them. Goodput counts good requests as throughput counts
all, those of the warm-up whose life reaches into the window with them.

Reads requests.csv and token_trace.csv with nothing but the standard library, or with --parquet the Parquet files by pyarrow.
Means have to agree to the ns they are given in; percentiles to the precision that summary.json states for its histograms.
Durations are differences of stamps on the run's common timeline, and summary.json's are of each agent's own clock: of a run
over several hosts, allow with --clock-ppm for what their clocks gain on one another.
Exits with 1 when one figure does not.
"""

import argparse
import csv
import json
import math
import statistics
import sys
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

METRICS = ("ttft", "tpot", "itl", "e2el")
# The finest step of the histogram, 2^9 ns: below 1024 times that it is coarser than its digits.
FINEST_NS = 512
TERMS = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e": "e2el", "e2el": "e2el"}


def ns_of(text, unit_ns):
    """Exact: these are decimal fractions of a second or ms."""
    return None if text == "" else int(Decimal(text) * unit_ns)


def from_csv(run):
    units = {"_s": 10**9, "_ms": 10**6, "_us": 10**3}

    def rows(name):
        with open(run / name, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for key, text in list(row.items()):
                    for end, unit in units.items():
                        if key.endswith(end):
                            row[key[: -len(end)] + "_ns"] = ns_of(text, unit)
                yield row

    whole = lambda text: None if text == "" else int(text)
    for row in (requests := list(rows("requests.csv"))):
        for key in ("level", "stream", "output_tokens", "prompt_tokens", "content_chunks"):
            row[key] = whole(row[key])
    return requests, rows("token_trace.csv")


def from_parquet(run):
    import pyarrow.parquet as pq

    def rows(name):
        for batch in pq.ParquetFile(run / name).iter_batches():
            for row in batch.to_pylist():
                yield {key: "" if value is None and not key.endswith("_ns") else value for key, value in row.items()}

    def absent(row):
        for key in ("output_tokens", "prompt_tokens"):
            row[key] = None if row[key] == "" else row[key]
        return row

    return [absent(row) for row in rows("requests.parquet")], rows("token_trace.parquet")


def gaps_of_requests(events):
    """Gaps between the content chunks of each request. Rows of one request are together, from its send to its end."""
    all_gaps, last, gaps, key = {}, None, [], None
    for event in events:
        kind = event["event"]
        if kind == "client_send" or key is None:
            last, gaps = None, []
        key = (str(event["level"]), event["agent"], event["request_id"])
        if kind == "token_chunk":
            if last is not None:
                gaps.append(event["t_ns"] - last)
            last = event["t_ns"]
        elif kind == "client_done":
            all_gaps.setdefault(key, []).extend(gaps)
            key = None
    return all_gaps


def nearest_rank(values, percent):
    """Of sorted values."""
    return values[max(math.ceil(percent / 100 * len(values)), 1) - 1]


def values_of(requests, all_gaps):
    values = {metric: [] for metric in METRICS}
    for r in requests:
        if r["outcome"] != "completed" or r["control_pause_ns"] is not None:
            continue
        if (ttft := ttft_of(r)) is not None:
            values["ttft"].append(ttft)
        if (tpot := tpot_of(r)) is not None:
            values["tpot"].append(tpot)
        if (e2e := e2e_of(r)) is not None:
            values["e2el"].append(e2e)
        values["itl"] += all_gaps.get((str(r["level"]), r["agent"], r["request_id"]), [])
    return {metric: sorted(all_values) for metric, all_values in values.items()}


def between(later, earlier):
    return None if later is None or earlier is None or later < earlier else later - earlier


def ttft_of(r):
    return between(r["first_token_ns"], r["t_ns"])


def tpot_of(r):
    span = between(r["last_token_ns"], r["first_token_ns"])
    if span is None or r["content_chunks"] < 2 or (r["output_tokens"] or 0) < 2:
        return None
    return span // (r["output_tokens"] - 1)


def e2e_of(r):
    return between(r["done_ns"], r["t_ns"]) if r["outcome"] == "completed" else None


def is_good(r, terms):
    """r completed. One that the client paused on purpose is none, nor is one without a token that has a first one's limit."""
    if r["control_pause_ns"] is not None:
        return False
    is_single = r["content_chunks"] < 2 or (r["output_tokens"] is not None and r["output_tokens"] < 2)
    of = {
        "ttft": (ttft_of(r), False),
        "tpot": (tpot_of(r), is_single),
        "itl": (r["longest_gap_ns"], r["content_chunks"] < 2),
        "e2el": (e2e_of(r), False),
    }
    return all(absent if ns is None else ns <= limit_ms * 1e6 for (ns, absent), limit_ms in ((of[m], x) for m, x in terms))


def credit(r, window, is_open):
    start, end = window
    if is_open:
        return 1.0 if start <= r["done_ns"] < end else 0.0
    begun, done = r["t_ns"], r["done_ns"]
    if done <= begun:
        return 1.0 if start <= done < end else 0.0
    return max(min(done, end) - max(begun, start), 0) / (done - begun)


def window_of(level, requests, is_open):
    """Where it lies: its length and the rule are told; its beginning follows from the rule."""
    if level["duration"] is None:
        return None
    start = round(level["start_s"] * 1e9) + level["_warmup_ns"]
    completed = [r["done_ns"] for r in requests if r["outcome"] == "completed" and r["done_ns"] is not None]
    if level["throughput_window"] == "makespan":
        start = min(r["t_ns"] for r in requests if r["phase"] == "measured")
    elif is_open and level["request_rate"] != "inf" and completed:
        start = max(start, min(completed) + 1)
    return start, start + round(level["duration"] * 1e9)


class Table:
    def __init__(self):
        self.rows, self.wrong = [], 0

    def compare(self, level, name, ours, theirs, allowed):
        if ours is None and theirs is None:
            return
        differs = None if ours is None or theirs is None else abs(ours - theirs)
        holds = differs is not None and differs <= allowed
        self.wrong += not holds
        self.rows.append((level, name, ours, theirs, differs, allowed, holds))

    def lines(self):
        show = lambda x: "-" if x is None else f"{x:.6f}"
        yield f"{'level':>5} {'figure':<22} {'recomputed':>16} {'summary.json':>16} {'difference':>12} {'allowed':>12}"
        for level, name, ours, theirs, differs, allowed, holds in self.rows:
            cells = f"{show(ours):>16} {show(theirs):>16} {show(differs):>12} {show(allowed):>12}"
            yield f"{level:>5} {name:<22} {cells}{'' if holds else '  <- differs'}"


def warmup_ns(run):
    environment = json.loads((run / "environment.json").read_text())
    plan = environment.get("plan") or {}
    return max(plan.get("warmup_ns") or 0, plan.get("ramp_ns") or 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--parquet", action="store_true")
    parser.add_argument("--goodput", nargs="+", default=[], metavar="METRIC:MS")
    parser.add_argument("--clock-ppm", type=float, default=0)
    parser.add_argument("--write-table", type=Path)
    args = parser.parse_args()
    terms = [(TERMS[name], float(limit)) for name, limit in (term.split(":") for term in args.goodput)]
    summary = json.loads((args.run / "summary.json").read_text())
    digits = int(summary["percentile_precision"].split()[0])
    requests, events = (from_parquet if args.parquet else from_csv)(args.run)
    all_gaps = gaps_of_requests(events)
    by_level = defaultdict(list)
    for request in requests:
        by_level[request["level"]].append(request)
    table, warmup = Table(), warmup_ns(args.run)
    for level in summary["levels"]:
        of_level = by_level[level["level"]]
        compare_latencies(table, level, of_level, all_gaps, (digits, args.clock_ppm / 1e6))
        compare_rates(table, level | {"_warmup_ns": warmup}, of_level, terms)
    text = "\n".join(table.lines())
    print(text)
    if args.write_table:
        args.write_table.write_text(text + "\n")
    print(f"{len(table.rows)} figures of {len(requests)} requests, {table.wrong} differ by more than is allowed")
    sys.exit(1 if table.wrong or not table.rows else 0)


def compare_latencies(table, level, of_level, all_gaps, precision):
    digits, stretch = precision
    name = level["level"]
    measured = [r for r in of_level if r["phase"] == "measured"]
    completed = sum(r["outcome"] == "completed" for r in measured)
    table.compare(name, "completed", completed, level["completed"], 0)
    table.compare(name, "failed", sum(r["outcome"] == "failed" for r in measured), level["failed"], 0)
    for metric, values in values_of(measured, all_gaps).items():
        if not values:
            table.compare(name, f"mean_{metric}_ms", None, level[f"mean_{metric}_ms"], 0)
            continue
        mean = statistics.fmean(values) / 1e6
        table.compare(name, f"mean_{metric}_ms", mean, level[f"mean_{metric}_ms"], 1.1e-6 + mean * stretch)
        for key, percent in (("median", 50), ("p95", 95), ("p99", 99)):
            ours = nearest_rank(values, percent)
            allowed = max(ours * (10.0**-digits + stretch), FINEST_NS) / 1e6
            table.compare(name, f"{key}_{metric}_ms", ours / 1e6, level[f"{key}_{metric}_ms"], allowed)


def compare_rates(table, level, of_level, terms):
    name, is_open = level["level"], level["request_rate"] is not None
    window = window_of(level, of_level, is_open)
    if window is None:
        return
    seconds = (window[1] - window[0]) / 1e9
    placed = [r for r in of_level if r["outcome"] == "completed" and r["done_ns"] is not None]
    # To the window's edges as they are told, with nine decimals.
    allowed = lambda rate: 1e-6 + rate * 1e-6
    weights = [(r, credit(r, window, is_open)) for r in placed]
    rate = sum(w for _, w in weights) / seconds
    table.compare(name, "request_throughput", rate, level["request_throughput"], allowed(rate))
    tokens = sum(w * (r["output_tokens"] or 0) for r, w in weights) / seconds
    table.compare(name, "output_throughput", tokens, level["output_throughput"], allowed(tokens))
    # Of a run that was judged by terms, a goodput that is not told is a difference.
    if terms:
        good = sum(w for r, w in weights if is_good(r, terms)) / seconds
        table.compare(name, "request_goodput", good, level.get("request_goodput"), allowed(good))


if __name__ == "__main__":
    main()
