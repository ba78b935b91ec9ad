"""LMaaS's engine without LMaaS: the same class and options, called in this process.

`python -m benchmarks.peers.in_process HOME MODEL` reads plans (JSON, one a line) and answers each
with a window. Settings come from `LMAAS_*`, as the server's do. The first line out is the engine's
options.
"""

import contextlib
import itertools
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.streams import Plan, Request, Window, window_of
from lmaas.config import load_settings
from lmaas.placement.machine import machine_budget_bytes
from lmaas.runtime.language.engine import LanguageEngine, TokenSampling, make_language_engine
from lmaas.service import Service
from lmaas.serving.prepare import need_of
from lmaas.types import TENANT

SEQUENCES = itertools.count(1)


def run(engine: LanguageEngine, plan: Plan) -> Window:
    """Carry a plan out, in closed or open loop."""
    gaps = np.zeros(len(plan.prompts))
    if plan.rate:
        gaps = np.random.default_rng(plan.seed).exponential(1 / plan.rate, len(plan.prompts))
    due = deque((time.perf_counter() + np.cumsum(gaps) - gaps[0]).tolist())
    waiting = deque(plan.prompts)
    running: dict[int, Request] = {}
    over: list[Request] = []
    sampling = TokenSampling(max_tokens=plan.tokens, temperature=0.0)
    most = len(plan.prompts) if plan.rate else plan.concurrency
    while waiting or running:
        while waiting and len(running) < most and due[0] <= time.perf_counter():
            prompt, arrived = waiting.popleft(), due.popleft()
            sent = arrived if plan.rate else time.perf_counter()
            sequence = next(SEQUENCES)
            engine.add(sequence, prompt, sampling)
            running[sequence] = Request(sent, prompt=len(prompt))
        if not running:
            time.sleep(max(0.0, due[0] - time.perf_counter()))
            continue
        for output in engine.step():
            request = running[output.sequence]
            request.last = time.perf_counter()
            request.first = request.first or request.last
            request.tokens += len(output.tokens)
            if output.finish:
                request.status = 200
                over.append(running.pop(output.sequence))
    while engine.busy():
        engine.step()
    return window_of(over, plan)


def main() -> None:
    """Load the model, then serve plans until the input ends."""
    home, model = sys.argv[1:]
    settings = load_settings({"home": home})
    with (
        tempfile.TemporaryDirectory(prefix="lmaas-bench-") as scratch,
        contextlib.closing(Service(settings)) as service,
    ):
        folder = Path(scratch)
        version = service.registry.resolve(TENANT, model)
        budget = settings.memory_budget_bytes or machine_budget_bytes()
        need = need_of(version, settings, budget, lambda ref: service.registry.resolve(TENANT, ref))
        for of, role, name in need.files:
            service.registry.unpack(of, folder / name, (role,))
        record = need.record(folder)
        spec = record.signature.language
        assert spec is not None
        assert record.options is not None
        engine = make_language_engine(record.engine.name)
        engine.load(Path(record.folder), spec, record.options)
        sys.stdout.buffer.write(msgspec.json.encode(record.options) + b"\n")
        sys.stdout.buffer.flush()
        for line in sys.stdin.buffer:
            window = run(engine, msgspec.json.decode(line, type=Plan))
            sys.stdout.buffer.write(msgspec.json.encode(window) + b"\n")
            sys.stdout.buffer.flush()
        engine.close()


if __name__ == "__main__":
    main()
