#!/usr/bin/env python3
"""A small OpenAI-compatible server that really computes: a transformer of random weights, decoded in one batch on a GPU (CuPy), or
on the CPU (NumPy) to try it without one. What it says means nothing; what it costs is real. It stands still on purpose, in ways
whose truth it logs, so that verdicts on stalls can be held against causes that are known on a real card.

Needs numpy, aiohttp, and cupy for the GPU: `server.py --help`.
"""
import argparse
import asyncio
import json
import os
import threading
import time

import numpy as np
from aiohttp import web


def raw_ns():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


class Model:
    """Decoder layers of the usual kind (pre-norm, rotary left out, SwiGLU), with a KV cache for each slot of the batch."""

    def __init__(self, xp, layers, hidden, heads, slots, length, weights):
        self.xp, self.layers, self.hidden, self.heads = xp, layers, hidden, heads
        self.slots, self.length, self.vocabulary = slots, length, 4096
        self.kind = np.float16 if xp is not np else np.float32
        shapes = {"embed": (self.vocabulary, hidden)}
        for i in range(layers):
            shapes[f"qkv{i}"] = (hidden, 3 * hidden)
            shapes[f"out{i}"] = (hidden, hidden)
            shapes[f"up{i}"] = (hidden, 4 * hidden)
            shapes[f"down{i}"] = (2 * hidden, hidden)
        self.w = self.load(shapes, weights)
        self.cache = xp.zeros((layers, 2, slots, length, heads, hidden // heads), dtype=self.kind)
        self.lengths = np.zeros(slots, dtype=np.int64)

    def load(self, shapes, path):
        """From a file, which is made when it is not there: so that a start reads from disk. The same random block again and
        again: a GPU does not see it."""
        block = (np.random.default_rng(1).standard_normal(1 << 24, dtype=np.float32) * 0.02).astype(np.float16)
        if path and not os.path.exists(path):
            total = sum(int(np.prod(shape)) for shape in shapes.values())
            with open(path + ".partial", "wb") as out:
                for _ in range(0, total, len(block)):
                    out.write(block.tobytes())
            os.rename(path + ".partial", path)
        file = open(path, "rb") if path else None
        weights = {}
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            flat = np.fromfile(file, dtype=np.float16, count=size) if file else np.resize(block, size)
            weights[name] = self.xp.asarray(flat.reshape(shape).astype(self.kind, copy=False))
        return weights

    def norm(self, x):
        x32 = x.astype(np.float32)
        return (x32 / self.xp.sqrt((x32 * x32).mean(-1, keepdims=True) + 1e-5)).astype(self.kind)

    def step(self, tokens):
        """One token of every slot; tokens: (slots,). Gives the next ones."""
        xp = self.xp
        slots, at = xp.arange(self.slots), np.minimum(self.lengths, self.length - 1)
        # Keys behind a slot's own length are of the request before.
        behind = xp.asarray(np.arange(self.length)[None, :] > at[:, None])
        at, x = xp.asarray(at), self.w["embed"][xp.asarray(tokens)]
        for i in range(self.layers):
            qkv = (self.norm(x) @ self.w[f"qkv{i}"]).reshape(self.slots, 3, self.heads, -1)
            for j in range(2):
                self.cache[i, j, slots, at] = qkv[:, 1 + j]
            scores = xp.einsum("shd,sthd->sht", qkv[:, 0], self.cache[i, 0]).astype(np.float32)
            scores = xp.where(behind[:, None, :], -1e4, scores / np.sqrt(qkv.shape[-1]))
            share = xp.exp(scores - scores.max(-1, keepdims=True))
            share = (share / share.sum(-1, keepdims=True)).astype(self.kind)
            mixed = xp.einsum("sht,sthd->shd", share, self.cache[i, 1]).reshape(self.slots, -1)
            x = x + mixed @ self.w[f"out{i}"]
            up = self.norm(x) @ self.w[f"up{i}"]
            gate, value = up[:, : 2 * self.hidden], up[:, 2 * self.hidden :]
            x = x + ((gate / (1 + xp.exp(-gate.astype(np.float32)).astype(self.kind))) * value) @ self.w[f"down{i}"]
        logits = self.norm(x) @ self.w["embed"].T
        self.lengths += 1
        # Brings the result to the CPU, and so waits for the GPU.
        following = logits.argmax(-1)
        return following if xp is np else following.get()


class Request:
    def __init__(self, name, prompt_tokens, wanted, loop):
        self.name, self.prompt_left, self.wanted, self.sent = name, prompt_tokens, wanted, 0
        self.prompt_tokens = prompt_tokens
        self.out, self.loop, self.paused_until = asyncio.Queue(), loop, 0
        self.gone = False

    def tell(self, text):
        self.loop.call_soon_threadsafe(self.out.put_nowait, text)


class Engine(threading.Thread):
    """Slots that decode together; the rest waits. Stands still as the plan says."""

    def __init__(self, model, plan, log):
        super().__init__(daemon=True)
        self.model, self.plan, self.log = model, plan, log
        self.waiting, self.running, self.lock = [], [None] * model.slots, threading.Lock()
        self.held = {}

    def add(self, request):
        with self.lock:
            self.waiting.append(request)

    def run(self):
        tokens = np.zeros(self.model.slots, dtype=np.int64)
        next_cause = None
        while True:
            with self.lock:
                for slot, request in enumerate(self.running):
                    if request is None and self.waiting:
                        self.running[slot] = self.waiting.pop(0)
                        self.model.lengths[slot] = 0
            active = [r for r in self.running if r is not None]
            if not active:
                time.sleep(0.001)
                continue
            if self.plan.kinds and next_cause is None:
                next_cause = time.monotonic() + self.plan.every
            if next_cause and time.monotonic() >= next_cause and all(r.sent > 5 for r in active) and len(active) >= 3:
                self.stand_still(active)
                next_cause = time.monotonic() + self.plan.every
            tokens = self.model.step(tokens)
            now = time.monotonic_ns()
            for slot, request in enumerate(self.running):
                if request is None:
                    continue
                if request.prompt_left > 0:
                    # The prompt goes through the same steps, some tokens at a time.
                    request.prompt_left -= 32
                    continue
                if now < request.paused_until:
                    continue
                request.sent += 1
                request.tell(f"w{int(tokens[slot]) % 997} ")
                if request.sent >= request.wanted or request.gone:
                    request.tell(None)
                    self.running[slot] = None

    def stand_still(self, active):
        kind = self.plan.next_kind()
        seconds = self.plan.seconds()
        names = [r.name for r in active]
        start = raw_ns()
        if kind == "idle":
            time.sleep(seconds)
        elif kind == "extra":
            end = time.monotonic() + seconds
            xp, w = self.model.xp, self.model.w["qkv0"]
            many = xp.ones((4096, w.shape[0]), dtype=w.dtype)
            while time.monotonic() < end:
                for _ in range(4):
                    done = many @ w
                if xp is not np:
                    xp.cuda.runtime.deviceSynchronize()
            del done
        else:
            names = names[:1]
            if kind == "preempt":
                active[0].paused_until = time.monotonic_ns() + int(seconds * 1e9)
            else:
                self.held[active[0].name] = time.monotonic() + seconds
            start_of = {"kind": kind, "from_raw_ns": start, "to_raw_ns": start + int(seconds * 1e9), "requests": names}
            print(json.dumps(start_of), file=self.log, flush=True)
            return
        told = {"kind": kind, "from_raw_ns": start, "to_raw_ns": raw_ns(), "requests": names}
        print(json.dumps(told), file=self.log, flush=True)


class Plan:
    def __init__(self, kinds, every, longest, seed):
        self.kinds, self.every, self.longest, self.n = kinds, every, longest, 0
        self.random = np.random.default_rng(seed)

    def next_kind(self):
        self.n += 1
        return self.kinds[(self.n - 1) % len(self.kinds)]

    def seconds(self):
        """The first of each kind lasts 724 ms."""
        return 0.724 if self.n <= len(self.kinds) else float(self.random.uniform(0.4, self.longest))


def app(engine, name):
    async def chat(http):
        body = await http.json()
        text = json.dumps(body.get("messages") or body.get("prompt") or "")
        prompt = min(len(text) // 4, 512)
        wanted = min(int(body.get("max_tokens") or body.get("max_completion_tokens") or 64), engine.model.length - 1)
        identity = http.headers.get("x-request-id", "")
        request = Request(identity, prompt, wanted, asyncio.get_running_loop())
        engine.add(request)
        usage = {"prompt_tokens": prompt, "completion_tokens": wanted, "total_tokens": prompt + wanted}
        if not body.get("stream"):
            words = [w async for w in words_of(request, engine)]
            message = {"role": "assistant", "content": "".join(words)}
            choice = {"index": 0, "message": message, "finish_reason": "length"}
            return web.json_response({"id": identity, "object": "chat.completion", "model": name, "choices": [choice], "usage": usage})
        reply = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
        await reply.prepare(http)

        async def event(choices, **more):
            told = {"id": identity, "object": "chat.completion.chunk", "model": name, "choices": choices, **more}
            await reply.write(f"data: {json.dumps(told)}\n\n".encode())

        try:
            async for word in words_of(request, engine):
                await event([{"index": 0, "delta": {"content": word}, "finish_reason": None}])
            await event([{"index": 0, "delta": {}, "finish_reason": "length"}])
            if (body.get("stream_options") or {}).get("include_usage"):
                await event([], usage=usage)
            await reply.write(b"data: [DONE]\n\n")
        finally:
            request.gone = True
        return reply

    async def words_of(request, engine):
        while True:
            word = await request.out.get()
            hold = engine.held.get(request.name, 0) - time.monotonic()
            if hold > 0:
                # A buffer on the way: what was made meanwhile leaves all at once.
                await asyncio.sleep(hold)
            if word is None:
                return
            yield word

    async def models(_):
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model", "max_model_len": engine.model.length}]})

    async def health(_):
        return web.Response(text="ok")

    routes = web.Application()
    routes.add_routes([web.post("/v1/chat/completions", chat), web.get("/v1/models", models), web.get("/health", health)])
    return routes


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--port", type=int, default=8000)
    args.add_argument("--cpu", action="store_true", help="NumPy on the CPU")
    args.add_argument("--layers", type=int, default=24)
    args.add_argument("--hidden", type=int, default=4096)
    args.add_argument("--heads", type=int, default=32)
    args.add_argument("--slots", type=int, default=8)
    args.add_argument("--length", type=int, default=512, help="most tokens of a request")
    args.add_argument("--weights", help="file of random weights, made when it is not there")
    args.add_argument("--stand-still", default="", help="idle,extra,preempt,hold: in turn, once each --every seconds")
    args.add_argument("--every", type=float, default=4.0)
    args.add_argument("--longest", type=float, default=1.2)
    args.add_argument("--seed", type=int, default=3, help="of how long it stands still")
    args.add_argument("--truth", default="/dev/null", help="one line of JSON for each time it stood still")
    args = args.parse_args()
    if args.cpu:
        xp = np
    else:
        import cupy

        xp = cupy
    model = Model(xp, args.layers, args.hidden, args.heads, args.slots, args.length, args.weights)
    model.step(np.zeros(args.slots, dtype=np.int64))
    kinds = [kind for kind in args.stand_still.split(",") if kind]
    engine = Engine(model, Plan(kinds, args.every, args.longest, args.seed), open(args.truth, "w"))
    engine.start()
    web.run_app(app(engine, "random"), host="127.0.0.1", port=args.port, print=None)


main()
