"""Reads result files as scripts made for vLLM's do, and holds them against summary.json.

    python3 vllm_json.py RUN_DIR FILE...

The keys are those that vllm/benchmarks/serve.py puts into its result_json.
"""

import json
import math
import sys

PLAIN = """date endpoint_type backend label model_id tokenizer_id num_prompts request_rate burstiness max_concurrency
duration completed failed total_input_tokens total_output_tokens request_throughput request_goodput output_throughput
total_token_throughput""".split()
STATISTICS = [f"{of}_{metric}_ms" for metric in ("ttft", "tpot", "itl", "e2el") for of in ("mean", "median", "std", "p99")]
LISTS = "input_lens output_lens ttfts itls latencies start_times errors".split()


def main():
    run, paths = sys.argv[1], sys.argv[2:]
    with open(f"{run}/summary.json", encoding="utf-8") as file:
        levels = {level["level"]: level for level in json.load(file)["levels"]}
    assert len(paths) == len(levels)
    for path in paths:
        with open(path, encoding="utf-8") as file:
            result = json.load(file)
        level = levels[result["tailcliff_level"]]
        missing = [key for key in PLAIN + STATISTICS + LISTS if key not in result]
        assert not missing, f"{path} lacks {missing}"
        for key in STATISTICS + ["request_throughput", "completed", "duration"]:
            assert result[key] == level[key], f"{path}: {key} is {result[key]}, {level[key]} in summary.json"
        assert len({len(result[key]) for key in LISTS}) == 1
        ttfts = [s for s, error in zip(result["ttfts"], result["errors"]) if not error]
        assert math.isclose(1e3 * sum(ttfts) / len(ttfts), result["mean_ttft_ms"], rel_tol=1e-6)
        gaps = [gap for gaps, error in zip(result["itls"], result["errors"]) if not error for gap in gaps]
        assert math.isclose(1e3 * sum(gaps) / len(gaps), result["mean_itl_ms"], rel_tol=1e-6)
    print(f"vLLM's keys: {len(paths)} files")


if __name__ == "__main__":
    main()
