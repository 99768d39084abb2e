"""Opens reports in headless Chromium, light, dark and on a phone, and holds what is there against what must be."""

import argparse
import json
import pathlib
import sys
import tempfile
import time

from browser import Browser

LOOKS = [("light", 1280, 900, "light"), ("dark", 1280, 900, "dark"), ("phone", 390, 844, "light"), ("phone-dark", 390, 844, "dark")]
# Every plot of a sweep, and what experiments add; in what not every run has, nothing may be drawn.
PLOTS = ["plot-latency", "plot-throughput", "plot-parts", "plot-cdf", "plot-percentiles", "plot-box", "plot-errors",
         "plot-heat", "plot-timeline", "plot-waterfall", "plot-kv"]
MAY_BE_EMPTY = {"plot-parts", "plot-errors"}
EXPERIMENTS = {"grid": ["plot-grid", "plot-grid-lines"], "overload": ["plot-overload"], "baseline": ["plot-baseline"]}
SECTIONS = ["found", "curve", "latency", "errors", "heat", "timeline", "waterfall", "kv", "cost", "certificates", "nodes",
            "environment", "doubt"]
UNNAMED = """[...document.querySelectorAll("select, input, .plot[role=img], table, nav, section")].filter((e) =>
    !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.closest("label"))).map((e) => e.outerHTML.slice(0, 90))"""
WIDE = """[...document.querySelectorAll("main *")].filter((e) => !e.closest(".scroll, pre, .plot") &&
    e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 90))"""
COLOUR = "getComputedStyle(document.querySelector('#plot-latency .xtick text')).fill"
# Of every trace: a slow machine's levels are client-bound, and not on the line.
DRAWN = "JSON.stringify(document.querySelector('#plot-latency').data.map((trace) => trace.y))"


class Checks:
    """Counts what held and tells what did not."""

    def __init__(self):
        self.passed, self.failed = 0, 0

    def hold(self, what, is_so, told=""):
        if is_so:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {what}: {told}", flush=True)


def clean(checks, browser, where):
    checks.hold(f"{where}: no error, exception or warning in the console", not browser.troubles, browser.troubles)
    failures = browser.value("document.documentElement.dataset.failures")
    checks.hold(f"{where}: nothing failed in the page", not failures, failures)
    fetched = [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))]
    checks.hold(f"{where}: nothing is fetched", not fetched, fetched)


def look(checks, browser, page, at, out, patience):
    name, width, height, scheme = at
    where = f"{page.parent.name} {name}"
    browser.look(width, height, scheme)
    started = time.monotonic()
    browser.open(page.resolve().as_uri())
    drawn = json.loads(browser.wait("document.documentElement?.dataset.drawn", patience))
    took = time.monotonic() - started
    clean(checks, browser, where)
    for plot in PLOTS + EXPERIMENTS.get(browser.value("SUMMARY.run.experiment"), []):
        is_there = drawn.get(plot, 0) > 0 and browser.value(f"document.querySelectorAll('#{plot} .main-svg').length") > 0
        checks.hold(f"{where}: {plot} has data", is_there or plot in MAY_BE_EMPTY and drawn.get(plot) == 0, drawn)
    sections = browser.value("[...document.querySelectorAll('section')].map((s) => s.id)")
    checks.hold(f"{where}: sections", [s for s in sections if s in SECTIONS] == SECTIONS, sections)
    checks.hold(f"{where}: everything has a name", browser.value(UNNAMED) == [], browser.value(UNNAMED))
    checks.hold(f"{where}: SIMULATED is said", "SIMULATED" in browser.value("document.querySelector('header').textContent"))
    over = browser.value("document.documentElement.scrollWidth - innerWidth")
    checks.hold(f"{where}: not wider than the screen", over <= 0 and browser.value(WIDE) == [], (over, browser.value(WIDE)))
    # The library is put in by the page itself, and nothing of anybody else's has become an element.
    checks.hold(f"{where}: scripts", browser.value("document.querySelectorAll('script').length") == 4)
    browser.screenshot(out / f"{page.parent.name}-{name}.png")
    tall = browser.value("document.documentElement.scrollHeight")
    print(f"{where}: all drawn {took:.1f} s after opening, {sum(drawn.values())} values, {tall} px high", flush=True)


def use(checks, browser, page):
    """Choices, sliders and a change of the colour scheme do something."""
    where = f"{page.parent.name} in use"
    before = browser.value(DRAWN)
    browser.value("""{const s = document.querySelector("#plot-latency").closest("figure").querySelector("select");
        s.value = "ttft"; s.dispatchEvent(new Event("change")); 0}""")
    checks.hold(f"{where}: another metric is drawn", before != browser.value(DRAWN))
    words = lambda: browser.value("document.querySelector('#kv p[aria-live]').textContent")
    # 2 x 80 layers x 8192 x 8192 tokens x 2 bytes = 20 GiB a user, over 130 GiB of weights.
    checks.hold(f"{where}: the KV cache by default", "One user takes 20 GiB" in words() and "141 GiB: user 1 is the first" in words(), words())
    slide = lambda at, value: browser.value(f"""{{const s = document.querySelectorAll("#kv input[type=range]")[{at}];
        s.value = {value}; s.dispatchEvent(new Event("input")); 0}}""")
    slide(4, 8)
    # Eight heads of 128 of 8192 values: an eighth, 2.5 GiB; 130 + 4 x 2.5 = 140 fits, a fifth user does not.
    checks.hold(f"{where}: grouped attention", "One user takes 2.5 GiB" in words() and "141 GiB: user 5 is the first" in words(), words())
    cost = browser.value("document.querySelector('#cost p[aria-live]').textContent")
    checks.hold(f"{where}: cost", "$2,400" in cost and "$1,250" in cost, cost)
    browser.value("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    browser.wait("[...document.querySelectorAll('details')].every((d) => d.childElementCount > 1)", 10)
    checks.hold(f"{where}: opened tables are named too", browser.value(UNNAMED) == [], browser.value(UNNAMED))
    colour = browser.value(COLOUR)
    browser.look(1280, 900, "dark")
    browser.wait(f"{COLOUR} !== {json.dumps(colour)}", 10)
    clean(checks, browser, where)


def rows(browser, label):
    """The first cells of a table."""
    return browser.value(f"""[...document.querySelectorAll('table[aria-label="{label}"] tbody tr')].map((row) => row.cells[0].textContent)""")


def whole(checks, browser, page):
    """Every level, rung and cell is there, under a name of its own. What there is, is read from summary.json."""
    where = f"{page.parent.name} whole"
    file = page.with_name("summary.json")
    summary = json.loads(file.read_text() if file.exists() else browser.value("JSON.stringify(SUMMARY)"))
    counted = [level for level in summary["levels"] if level.get("counts", True)]
    names = browser.value("[...document.querySelectorAll('#certificates h3')].map((h) => h.firstChild.textContent)")
    checks.hold(f"{where}: every level has its certificate and a name", len(set(names)) == len(summary["levels"]), names)
    shown = rows(browser, "Counts of every level")
    loads = {(level["concurrency"], level["request_rate"], json.dumps(level["cell"]), level["role"]) for level in counted}
    checks.hold(f"{where}: every rung has its counts", len(set(shown)) == len(shown) == len(loads), (shown, loads))
    badge = browser.value("document.querySelector('header').textContent.includes('INCOMPLETE')")
    checks.hold(f"{where}: whether it is whole is said", badge != summary["run"]["complete"], summary["run"])
    if overload := summary["overload"]:
        rungs = [f"{rung['concurrency']} in flight, timeout {rung['request_timeout_s']:g} s" for rung in overload["rungs"]]
        bars = browser.value("document.querySelector('#plot-overload').data[0].x")
        checks.hold(f"{where}: every rung", len(set(rungs)) == 4 and rows(browser, "Rungs of the overload") == bars == rungs, (rungs, bars))
        checks.hold(f"{where}: rungs among the counts", {f"overload, {rung}" for rung in rungs} <= set(shown), shown)
        failed = rows(browser, "Failures of the overload")
        checks.hold(f"{where}: failures", failed == [failure["class"] for failure in overload["failures"]] != [], failed)
        after = [f"{recovery['request_timeout_s']:g} s" for recovery in overload["recoveries"]]
        checks.hold(f"{where}: recoveries", len(after) == 2 and rows(browser, "Recoveries") == after, after)
    if grid := summary["grid"]:
        drawn = browser.value("document.querySelector('#plot-grid').data[0].z")
        texts = browser.value("[...document.querySelectorAll('#plot-grid .heatmap-label')].length")
        checks.hold(f"{where}: every cell", drawn == grid["p95_e2el_ms"] and texts == len(grid["cells"]) == 4, (drawn, texts))
        checks.hold(f"{where}: cells in the table", len(rows(browser, "Token budget")) == 4, rows(browser, "Token budget"))
    if summary["search"]:
        told = browser.value("document.querySelector('#searched').textContent")
        checks.hold(f"{where}: the search", f"{summary['search']['levels']} levels in" in told, told)


def changed(page, out):
    """The same page of another run: what a short run against a simulated server does not have."""
    text = page.read_text()
    before, rest = text.split('<script id="data" type="application/json">')
    raw, after = rest.split("</script>", 1)
    data = json.loads(raw)
    summary = data["summary"]
    one, two, three = summary["levels"]
    again = {**two, "level": 99, "counts": False}
    for level, verdict in [(one, "ok"), (two, "thin"), (three, "client-bound")]:
        level["certificate"]["verdict"] = verdict
    summary["levels"] = [one, two, again, three]
    summary["knee"]["estimate"] = {"at": 4, "ci": [2, None], "confidence": 0.95}
    summary["cliff_diagnosis"] = {"cause": "network", "confidence": 0.7, "words": "bytes wait", "evidence": [{"signal": "sockets", "words": "full"}], "excluded": []}
    ready = next(row for row in data["waterfall"] if row["level"] == three["level"])
    ready["outcome"], ready["why"] = "incomplete", "not completed"
    with_inside(data, one, three)
    made = out / "told" / "report.html"
    made.parent.mkdir(exist_ok=True)
    made.write_text(before + '<script id="data" type="application/json">' + json.dumps(data).replace("<", "\\u003c") + "</script>" + after)
    return made


def with_inside(data, one, three):
    """What a server told of two levels, by spans and by its replies; three requests in four joined, some with parts that cannot be."""
    names = [of["part"] for of in data["parts"]]
    hows = {"network_up": "between clocks", "network_down": "between clocks", "front_in": "inferred", "front_out": "inferred"}
    values = {"send_lag": 0.02, "write": 0.05, "network_up": -0.2, "front_in": 1.2, "queue": 4, "prefill": 6, "decode": 20, "front_out": 0.6,
              "network_down": 0.3, "socket_wait": 0.02, "read": 0.1}
    part = lambda name, how: {"part": name, "words": name.replace("_", " "), "how": how, "count": 30, "mean_ms": values[name], "p95_ms": values[name] * 1.5,
                              "impossible": 2 if name == "network_up" else 0}
    inside = {"joined": 30, "unmatched": 10, "sources": [{"source": "spans", "requests": 30}], "servers": [{"server": "probe: <b>sim", "requests": 30}],
              "front_ms": 1.8, "front_share": 0.06, "impossible": 2, "unplaced": 1, "bound_us": 40, "worst_bound_us": 90, "delivery_ms": 0.3,
              "parts": [part(name, hows.get(name, "measured")) for name in names if name in values]}
    # What the simulated server itself told of the run is another story.
    for level in data["summary"]["levels"]:
        level["inside"] = level["server"] = None
    one["inside"] = inside
    three["inside"] = {**inside, "front_ms": None, "bound_us": None, "parts": [part(n, "inferred" if n == "queue" else "measured") for n in ("write", "queue", "prefill", "decode")]}
    cross = {"of": "ttft", "server_count": 30, "client_count": 30, "server_mean_ms": 10, "client_mean_ms": 11.5, "difference_ms": 1.5, "server_p95_ms": [10, None], "words": "as many"}
    one["server"] = {"scrapes": 9, "failed": 1, "took_ms": 3, "running": {"mean": 2, "max": 4}, "waiting": {"mean": 1, "max": 3}, "kv_usage": {"mean": 0.3, "max": 0.5},
                     "preemptions": 2, "cache_hit": 0.25, "spec_accepted": None, "named": [{"series": 'a{b="<i>"}', "mean": 1, "max": 2}],
                     "cross": [cross, {**cross, "of": "queue", "client_mean_ms": None, "difference_ms": None, "server_p95_ms": None}], "notes": ["one scrape failed <b>"]}
    tally = {key: 0 for key in ("received", "over_rate", "without_ids", "without_room", "malformed", "put_off", "turned_away", "lines", "bad_lines")}
    data["summary"]["inside"] = {"spans": 70, "unmatched_spans": 3, "told_twice": 1, "tallies": [{"probe": "p", **tally}], "wall_steps": [{"probe": "p", "by_ms": -2000, "t_s": 5}], "warnings": []}
    for nth, row in enumerate(row for row in data["waterfall"] if row["outcome"] == "completed"):
        whole = row["stamps_ms"][8]
        shares = {"queue": 0.2, "prefill": 0.3, "decode": 0.4, "network_down": 0.02, "front_in": 0.05, "write": 0.01}
        parts = [whole * shares[name] if name in shares else None for name in names]
        parts[names.index("network_up")] = whole * 0.02 if nth % 5 else -whole * 0.06
        parts[names.index("read")] = whole - sum(part for part in parts if part is not None)
        told = {"source": "spans", "server": "probe: <b>sim", "bound_us": 40, "impossible": [] if nth % 5 else ["network_up"], "parts_ms": parts}
        row["inside"] = told if nth % 4 else None
    bins = data["timeline"]["bins"]
    series = lambda values: {"min": values, "mean": values, "max": values}
    data["timeline"]["servers"] = {"scrapes_not_shown": 0, "shown": [{"probe": "p", "endpoint": "http://h/metrics", "failed": 1, "running": series([at % 5 for at in range(bins)]),
                                   "waiting": series([at % 3 for at in range(bins)]), "kv_pct": series([at * 90 / bins for at in range(bins)])}]}


def inside(checks, browser):
    """The server's part of the changed page."""
    clean(checks, browser, "told inside")
    bars = browser.value("document.querySelector('#plot-inside').data.map((t) => [t.name, t.x])")
    mean = {name: x for name, x in bars}
    checks.hold("told: a mean below zero is drawn below zero", [x[0] for name, x in bars if name.startswith("network up")] == [-0.2], bars)
    checks.hold("told: how a part is known is in its name", any("(two clocks)" in name for name in mean) and any("(inferred)" in name for name in mean), mean)
    cross = rows(browser, "Server histograms against ours")
    checks.hold("told: the cross-check", len(cross) == 2 and rows(browser, "Server metrics") == ["1 in flight"], cross)
    words = browser.value("document.querySelector('#inside').textContent")
    for said in ["4 requests have a part below zero", "over 10 ms", "stepped by -2 s", "one scrape failed <b>"]:
        checks.hold(f"told: {said}", said in words, words)
    names = browser.value("document.querySelector('#plot-waterfall').data.map((t) => t.name)")
    below = [name for name in names if name.startswith("below zero")]
    checks.hold("told: parts below zero are counted", len(below) == 1 and "0 by more" not in below[0], names)
    ends = browser.value("""(() => { const {data} = document.querySelector('#plot-waterfall'); const below = data.find((t) => t.name.startsWith('below zero'));
        return below.x.every((x) => x > 0) && below.base.length === below.x.length && data.some((t) => t.error_x && t.error_x.array.every((ms) => ms === 0.04)) })()""")
    checks.hold("told: whiskers, and nothing is cut off", ends)
    shown = "document.querySelector('#plot-waterfall').data.map((t) => t.name).join()"
    before = browser.value(shown)
    browser.value("""{const s = document.querySelector("#plot-waterfall").closest("figure").querySelectorAll("select")[1];
        s.value = "stages"; s.dispatchEvent(new Event("change")); 0}""")
    checks.hold("told: the client's stages can be had instead", "until headers" in browser.value(shown) and before != browser.value(shown), before)
    gauges = browser.value("document.querySelector('#plot-timeline').data.map((t) => t.name).filter((name) => name.startsWith('server: '))")
    checks.hold("told: the server's gauges", gauges == ["server: running", "server: waiting", "server: KV cache in use"], gauges)


def told(checks, browser, page, patience):
    """Of the changed page: an open interval, a thin level, a level driven again, the cliff's cause, a server's own word."""
    browser.look(1280, 900, "light")
    browser.open(page.resolve().as_uri())
    browser.wait("document.documentElement?.dataset.drawn", patience)
    clean(checks, browser, "told")
    found = browser.value("document.querySelector('#found').textContent")
    for words in ["4 in flight [2, ?]", "networkbytes wait", "1 of 3 levels is not the server's", "1 of 3 levels: fewer than 20"]:
        checks.hold(f"told: {words}", words in found, found)
    band = browser.value("(({layout, _fullLayout}) => [layout.shapes.find((s) => s.type === 'rect').x1, _fullLayout.xaxis.range[1], _fullLayout.xaxis.type])(document.querySelector('#plot-latency'))")
    end = 10 ** band[1] if band[2] == "log" else band[1]
    checks.hold("told: the band reaches the end of the axis", abs(band[0] / end - 1) < 1e-6, band)
    line = browser.value("document.querySelector('#plot-latency').data.filter((t) => t.name === 'p95').map((t) => [t.x, t.marker.symbol])")
    checks.hold("told: a thin level is on the line", line == [[[1, 4], ["circle", "circle-open"]]], line)
    names = browser.value("[...document.querySelectorAll('#certificates h3')].map((h) => h.firstChild.textContent)")
    checks.hold("told: a level again", names == ["1 in flight", "4 in flight, counts", "4 in flight (again)", "16 in flight"], names)
    bars = browser.value("document.querySelector('#plot-waterfall').layout.yaxis.ticktext.filter((text) => text.startsWith('incomplete'))")
    checks.hold("told: what became of a request", len(bars) == 1, bars)
    browser.screenshot(page.with_name("told-light.png"))
    inside(checks, browser)
    browser.look(390, 844, "dark")
    browser.open(page.resolve().as_uri())
    browser.wait("document.documentElement?.dataset.drawn", patience)
    clean(checks, browser, "told phone")
    over = browser.value("document.documentElement.scrollWidth - innerWidth")
    checks.hold("told phone: not wider than the screen", over <= 0 and browser.value(WIDE) == [], (over, browser.value(WIDE)))
    browser.screenshot(page.with_name("told-phone.png"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chromium")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("pages", type=pathlib.Path, nargs="+")
    parser.add_argument("--patience", type=float, default=120, help="seconds that a page may take")
    parser.add_argument("--changed", action="store_true", help="the page stands alone, without its run")
    args = parser.parse_args()
    checks = Checks()
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(args.chromium, profile)
        try:
            for page in args.pages:
                print(f"{page.parent.name}: {page.stat().st_size / 1e6:.2f} MB", flush=True)
                for at in LOOKS:
                    look(checks, browser, page, at, args.out, args.patience)
                browser.look(1280, 900, "light")
                browser.open(page.resolve().as_uri())
                browser.wait("document.documentElement?.dataset.drawn", args.patience)
                use(checks, browser, page)
                # After use: then every table is open.
                if not args.changed:
                    whole(checks, browser, page)
                pdf = args.out / f"{page.parent.name}.pdf"
                browser.pdf(pdf)
                checks.hold(f"{page.parent.name}: prints", pdf.stat().st_size > 50_000, pdf.stat().st_size)
                clean(checks, browser, f"{page.parent.name} printed")
            if not args.changed:
                told(checks, browser, changed(args.pages[0], args.out), args.patience)
        finally:
            browser.close()
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(checks.failed > 0 or checks.passed == 0)


main()
