"""Opens reports in headless Chromium, light, dark and on a phone, and holds what is there against what must be."""

import argparse
import json
import pathlib
import sys
import tempfile
import time

from browser import Browser

LOOKS = [("light", 1280, 900, "light"), ("dark", 1280, 900, "dark"), ("phone", 390, 844, "light"), ("phone-dark", 390, 844, "dark")]
# Every plot of a sweep; in what not every run has, nothing may be drawn.
PLOTS = ["plot-latency", "plot-throughput", "plot-parts", "plot-cdf", "plot-percentiles", "plot-box", "plot-errors",
         "plot-heat", "plot-timeline", "plot-waterfall", "plot-kv"]
MAY_BE_EMPTY = {"plot-parts", "plot-errors"}
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
    for plot in PLOTS:
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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chromium")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("pages", type=pathlib.Path, nargs="+")
    parser.add_argument("--patience", type=float, default=120, help="seconds that a page may take")
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
                pdf = args.out / f"{page.parent.name}.pdf"
                browser.pdf(pdf)
                checks.hold(f"{page.parent.name}: prints", pdf.stat().st_size > 50_000, pdf.stat().st_size)
                clean(checks, browser, f"{page.parent.name} printed")
        finally:
            browser.close()
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(checks.failed > 0 or checks.passed == 0)


main()
