"""Runs every snippet of docs/reading.md over a run, and holds what it comes to against summary.json.

    python reading.py DOCUMENT RUN_DIR
"""

import contextlib
import io
import json
import math
import re
import sys

PLACE = 'run = "runs/NAME"'


def rows_of(result):
    """Of a pandas or a polars frame."""
    return result.to_dicts() if hasattr(result, "to_dicts") else result.to_dict("records")


def check(number, code, run, levels):
    assert code.count(PLACE) == 1, f"snippet {number} does not say {PLACE}"
    names, said = {}, io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code.replace(PLACE, f"run = {run!r}"), f"snippet {number}", "exec"), names)
    assert said.getvalue().strip(), f"snippet {number} prints nothing"
    rows, compared = rows_of(names["result"]), 0
    if "waterfall.csv" in code:
        # Of a run whose server told nothing there are no rows.
        told = [level for level in levels.values() if level["inside"] and level["inside"]["joined"]]
        assert len(rows) == len(told), f"snippet {number}: {len(rows)} levels of {len(told)} that a server told of"
        for row in rows:
            compared += inside(number, row, levels[row["level"]]["inside"])
        print(f"snippet {number}: {len(rows)} levels that a server told of, {compared} means as summary.json has them")
        return
    assert len(rows) == len(levels), f"snippet {number}: {len(rows)} levels of {len(levels)}"
    for row in rows:
        level = levels[row["level"]]
        if "n" in row:
            assert row["n"] == level["completed"], f"snippet {number}: {row['n']} requests of {level['completed']}"
        for key, value in row.items():
            if key.startswith("mean_"):
                assert math.isclose(value, level[key], rel_tol=1e-6), f"snippet {number}: {key} {value}, {level[key]}"
                compared += 1
        assert 0 <= row.get("good_share", 0) <= 1
    assert compared, f"snippet {number} has no mean to compare"
    print(f"snippet {number}: {len(rows)} levels, {compared} means as summary.json has them")


def inside(number, row, told):
    """Of each part that the summary has, the mean is the same."""
    for part in told["parts"]:
        mean = row[f"mean_inside_{part['part']}_ms"]
        assert math.isclose(mean, part["mean_ms"], rel_tol=1e-6, abs_tol=2e-6), f"snippet {number}: {part} {mean}"
    return len(told["parts"])


def main():
    document, run = sys.argv[1:]
    with open(document, encoding="utf-8") as file:
        snippets = re.findall(r"^```python\n(.*?)^```$", file.read(), re.MULTILINE | re.DOTALL)
    with open(f"{run}/summary.json", encoding="utf-8") as file:
        levels = {level["level"]: level for level in json.load(file)["levels"]}
    assert len(snippets) >= 5, "the document has lost its snippets"
    for number, code in enumerate(snippets, 1):
        check(number, code, run, levels)


if __name__ == "__main__":
    main()
