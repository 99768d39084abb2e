"""What a run of tailcliff wrote about the server's side, as check_vllm.py and check_llama.py read it."""

import csv
import json
import sys
from pathlib import Path

PARTS = [
    "send_lag",
    "connect",
    "write",
    "network_up",
    "front_in",
    "queue",
    "prefill",
    "decode",
    "front_out",
    "network_down",
    "socket_wait",
    "read",
]
# Parts are written to the ns; vLLM's own stamps are doubles of seconds since 1970, a quarter of a µs apart.
ROUNDING_MS = 0.001

failed = 0


def check(holds, text):
    """Goes on when it does not hold, so that one look shows all that is wrong."""
    global failed
    failed += not holds
    print(("ok   " if holds else "FAIL ") + text)


def end():
    if failed:
        sys.exit(f"{failed} checks failed")


def number(cell):
    return float(cell) if cell else None


class Row:
    """A line of waterfall.csv; parts that nothing tells are None."""

    def __init__(self, line):
        self.line = line
        self.id = line["request_id"]
        self.concurrency = int(line["concurrency"])
        self.parts = {part: number(line[f"{part}_ms"]) for part in PARTS}
        self.e2el_ms = float(line["e2el_ms"])
        self.bound_ms = (number(line["bound_us"]) or 0) / 1e3
        self.impossible = line["impossible"]

    def __getattr__(self, name):
        return self.parts[name]

    def sum(self, *parts):
        """In ms, what is not known as 0."""
        return sum(self.parts[part] or 0 for part in parts or PARTS)


class Run:
    """Outputs of one run: its levels, and of each the completed requests of the measured phase and those of them that joined."""

    def __init__(self, directory):
        at = Path(directory)
        self.summary = json.loads((at / "summary.json").read_text())
        self.environment = json.loads((at / "environment.json").read_text())
        self.levels = self.summary["levels"]
        done = [r for r in lines(at / "requests.csv") if r["phase"] == "measured" and r["outcome"] == "completed"]
        self.requests = {r["request_id"]: r for r in done}
        self.rows = [Row(line) for line in lines(at / "waterfall.csv") if line["request_id"] in self.requests]
        self.scrapes = lines(at / "server_trace.csv")

    def requests_of(self, level):
        return [r for r in self.requests.values() if int(r["concurrency"]) == level["concurrency"]]

    def rows_of(self, level):
        return [row for row in self.rows if row.concurrency == level["concurrency"]]

    def facts(self):
        """What environment.json says of the server, wherever it says it."""
        return next(of for of in walk(self.environment) if of.get("stack"))

    def check_joined(self):
        for level in self.levels:
            requests, rows, inside = self.requests_of(level), self.rows_of(level), level["inside"]
            joined = len({row.id for row in rows})
            check(
                joined == len(rows) == len(requests) == level["completed"] > 0,
                f"{name(level)}: {joined} of {len(requests)} completed requests joined, each once",
            )
            told = inside and (inside["joined"], inside["unmatched"])
            check(told == (len(requests), 0), f"{name(level)}: so says summary.json (joined, unmatched): {told}")

    def check_sums(self):
        slack = ROUNDING_MS * len(PARTS)
        off = {row.id: abs(row.sum() - row.e2el_ms) for row in self.rows}
        far = [row for row in self.rows if off[row.id] > slack]
        worst = max(off.values(), default=0) * 1e3
        check(
            not far,
            f"the parts of all but {len(far)} of {len(self.rows)} requests add up to e2el_ms, the worst to {worst:.3f} µs",
        )
        for row in far[:5]:
            print(
                f"       {row.id}: {row.sum():.6f} of {row.e2el_ms:.6f} ms; unknown: {[p for p in PARTS if row.parts[p] is None]}"
            )
        same = all(abs(row.e2el_ms - float(self.requests[row.id]["e2el_ms"])) <= ROUNDING_MS for row in self.rows)
        check(same, "e2el_ms is that of requests.csv")

    def table(self, columns):
        """Means over the joined requests by level: (head, row → ms)."""
        print("| " + " | ".join(["level", *(head for head, _ in columns)]) + " |")
        print("|" + "---|" * (1 + len(columns)))
        for level in self.levels:
            rows = self.rows_of(level)
            cells = [f"{mean(of(row) for row in rows):.2f}" for _, of in columns]
            print("| " + " | ".join([str(level["concurrency"]), *cells]) + " |")


def name(level):
    return f"level {level['concurrency']}"


def mean(values):
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def gauge(level, which, of):
    """Mean or maximum of a gauge of the server's metrics over a level."""
    return ((level["server"] or {}).get(which) or {}).get(of) or 0.0


def lines(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def walk(value):
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from walk(inner)
