"""The engine of chat about images without a server: images and prompts go in, tokens come out.

`python -m benchmarks.peers.image_chat HOME` reads a line [model, precision, tokens, requests], then
plans [callers, seconds, seconds before], and answers each with a window. The vision tower reads an
image in the loop that also writes.
"""

import contextlib
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.load import Window
from benchmarks.vision_models import questions
from lmaas.config import load_settings
from lmaas.generation_types import FilePart
from lmaas.placement.machine import machine_budget_bytes
from lmaas.runtime.language.engine import TokenSampling, make_language_engine
from lmaas.runtime.language.pictures import Pictures
from lmaas.service import Service
from lmaas.serving.prepare import need_of
from lmaas.types import TENANT


def run(
    engine: Any, pictures: Pictures, prompts: Any, callers: int, seconds: float, before: float
) -> Window:
    """Keep `callers` requests running for so long."""
    begin = time.perf_counter() + before
    end = begin + seconds
    sampling = TokenSampling(max_tokens=prompts.tokens, min_tokens=prompts.tokens, temperature=0)
    sent: dict[int, float] = {}
    taken = []
    while sent or time.perf_counter() < end:
        while len(sent) < callers and time.perf_counter() < end:
            now, sequence = time.perf_counter(), next(prompts.numbers)
            picture = pictures.read(prompts.file())
            engine.add(sequence, prompts.ids, sampling, [picture])
            sent[sequence] = now
        for output in engine.step():
            if output.error is not None:
                raise output.error
            if output.finish:
                now = time.perf_counter()
                took = now - sent.pop(output.sequence)
                if begin <= now < end:
                    taken.append(took * 1e3)
    return Window(
        requests=len(taken),
        errors=0,
        requests_per_s=len(taken) / seconds,
        p50_ms=float(np.percentile(taken, 50)),
        p99_ms=float(np.percentile(taken, 99)),
    )


class Prompts:
    """One question, and an image for each time that it is asked."""

    def __init__(self, folder: Path, bodies: list[bytes], pictures: Pictures, tokens: int) -> None:
        from transformers import AutoTokenizer

        told = [json.loads(body)["messages"] for body in bodies]
        own = AutoTokenizer.from_pretrained(folder)
        plain = [
            {"role": "user", "content": [{"type": "image"}, told[0][0]["content"][1]]},
        ]
        text = own.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
        ids = own(text, add_special_tokens=False)["input_ids"]
        place = pictures.spec.token_id
        self.ids = [
            each for id_ in ids for each in [id_] * (pictures.spec.tokens if id_ == place else 1)
        ]
        urls = [message[0]["content"][0]["image_url"]["url"] for message in told]
        self._files = itertools.cycle([url.partition(",")[2] for url in urls])
        self.numbers = itertools.count(1)
        self.tokens = tokens

    def file(self) -> FilePart:
        """The next image."""
        return FilePart(kind="image", data=next(self._files), media_type="image/jpeg")


def main() -> None:
    """Load the model, then serve plans until the input ends."""
    model, precision, tokens, requests = msgspec.json.decode(sys.stdin.buffer.readline())
    settings = load_settings({"home": sys.argv[1], "precision": precision})
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
        spec, options = record.signature.language, record.options
        assert spec is not None
        assert spec.vision is not None
        assert options is not None
        engine = make_language_engine(record.engine.name)
        engine.load(Path(record.folder), spec, options)
        pictures = Pictures(
            Path(record.folder), spec.vision, options.precision, record.limits, options.threads
        )
        bodies = questions(requests, model, tokens)
        prompts = Prompts(Path(sys.argv[1]).with_name("checkpoint"), bodies, pictures, tokens)
        for line in sys.stdin.buffer:
            window = run(engine, pictures, prompts, *msgspec.json.decode(line))
            sys.stdout.buffer.write(msgspec.json.encode(window) + b"\n")
            sys.stdout.buffer.flush()
        engine.close()


if __name__ == "__main__":
    main()
