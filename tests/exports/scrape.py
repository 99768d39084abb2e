"""Scrapes a running sweep until it is over, each time through Prometheus' own parser.

    python scrape.py URL RUN_DIR

Counters may never fall. Ends when nobody answers any more; the last counts of every level but the last are summary.json's.
"""

import json
import sys
import time
import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def scrape(url):
    with urllib.request.urlopen(url, timeout=10) as reply:
        assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = reply.read().decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.type != "unknown", family
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples, f"twice: {key}"
            samples[key] = sample.value
    return samples


def main():
    url, run = sys.argv[1:]
    last, scrapes = {}, 0
    while True:
        try:
            now = scrape(url)
        except OSError:
            break
        for key, value in last.items():
            grows = key[0].endswith(("_total", "_count", "_bucket"))
            assert not grows or now.get(key, 0) >= value, f"{key} fell from {value} to {now.get(key)}"
        last, scrapes = now, scrapes + 1
        time.sleep(0.2)
    assert scrapes > 10, f"only {scrapes} scrapes"
    while True:
        try:
            with open(f"{run}/summary.json", encoding="utf-8") as file:
                levels = json.load(file)["levels"]
            break
        except FileNotFoundError:
            time.sleep(0.2)
    compared = 0
    for level in levels[:-1]:
        for outcome in ("completed", "failed", "incomplete"):
            told = [
                value
                for (name, labels), value in last.items()
                if name == "tailcliff_requests_total"
                and {("level", str(level["level"])), ("outcome", outcome)} <= set(labels)
            ]
            assert told == [level["all_phases"][outcome]], (level["level"], outcome, told)
            compared += 1
    assert compared
    print(f"metrics: {scrapes} scrapes read by prometheus_client, {compared} counts as summary.json has them")


if __name__ == "__main__":
    main()
