"""Translation: LMaaS's engine of encoder-decoders beside CTranslate2, on the same random weights.

A Marian-shaped network (6 + 6 layers, width 512, 8 heads, 58,100 tokens) is made, converted by
both, and asked for answers of a fixed length by 1, 8 and 32 callers at once, greedy and with 4
beams. CTranslate2 gets the callers' sentences as one batch; ours are added one by one. Both run in
f32 on all cores; rounds take turns. Tokens of both are compared.

    make bench BENCH=translation
"""

import argparse
import gc
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY, WIDTH, LAYERS = 58_101, 512, 6
END, PAD = 0, 58_100
CALLERS = (1, 8, 32)
SOURCE_TOKENS = 20
OUT = Path(__file__).parent / "results" / "translation.json"


def make(folder: Path) -> None:
    """A random checkpoint of opus-mt's shape."""
    import torch
    from transformers.models.marian import MarianConfig, MarianMTModel

    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=VOCABULARY, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS,
        encoder_attention_heads=8, decoder_attention_heads=8, encoder_ffn_dim=2048,
        decoder_ffn_dim=2048, max_position_embeddings=512, activation_function="swish",
        scale_embedding=True, pad_token_id=PAD, eos_token_id=END, decoder_start_token_id=PAD,
        forced_eos_token_id=None, init_std=0.05,
    )  # fmt: skip
    model = MarianMTModel(config)
    model.save_pretrained(folder)


def ours(folder: Path, threads: int) -> Callable[[list[np.ndarray], int, int], list[list[int]]]:
    """The engine, as a function of sources, tokens and beams."""
    from lmaas.frameworks.sequence import families
    from lmaas.frameworks.sequence.compile import compile_network
    from lmaas.frameworks.sequence.spec import spec_of
    from lmaas.frameworks.sequence.stored import Stored
    from lmaas.runtime.language.engine import EngineOptions
    from lmaas.runtime.sequence.calls import Decoding, SequenceCall
    from lmaas.runtime.sequence.engine import SequenceEngine

    config = json.loads((folder / "config.json").read_text())
    network, weights = families.read(config, Stored(folder))
    compile_network(network, weights, folder / "ours")
    spec = spec_of(
        network, architecture="MarianMTModel", most_source=512, most_target=512, start=(PAD,),
        stop_token_ids=(END,), pad_token_id=PAD,
    )  # fmt: skip
    engine = SequenceEngine()
    options = EngineOptions(precision="f32", threads=threads, max_sequences=256)
    engine.load(folder / "ours", spec, options)

    def run(sources: list[np.ndarray], tokens: int, beams: int) -> list[list[int]]:
        how = Decoding(prompt=(PAD,), max_tokens=tokens + 1, beams=beams, suppressed=(END, PAD))
        for number, source in enumerate(sources):
            engine.add(number, SequenceCall(tag=number, source=source, decoding=how))
        answers: dict[int, list[int]] = {}
        while engine.busy():
            for output in engine.step():
                if output.result is not None:
                    answers[output.sequence] = list(output.result.candidates[0].tokens)
        return [answers[number] for number in range(len(sources))]

    return run


def theirs(folder: Path, threads: int) -> Callable[[list[np.ndarray], int, int], list[list[int]]]:
    """CTranslate2's translator of the same weights, as the same function."""
    import ctranslate2
    from ctranslate2.converters.transformers import MarianMTLoader
    from transformers.models.marian import MarianMTModel

    class Named:
        """What the converter asks of a tokenizer."""

        eos_token, unk_token = "</s>", "w1"

    model = MarianMTModel.from_pretrained(folder)
    loader = MarianMTLoader()
    spec = loader.get_model_spec(model)
    loader.set_vocabulary(spec, ["</s>", *(f"w{index}" for index in range(1, PAD))])
    loader.set_config(spec.config, model, Named)
    spec.validate()
    spec.optimize()
    (folder / "theirs").mkdir()
    spec.save(str(folder / "theirs"))
    translator = ctranslate2.Translator(
        str(folder / "theirs"), compute_type="float32", intra_threads=threads, inter_threads=1
    )

    def run(sources: list[np.ndarray], tokens: int, beams: int) -> list[list[int]]:
        texts = [[f"w{index}" for index in source] for source in sources]
        results = translator.translate_batch(
            texts, beam_size=beams, max_decoding_length=tokens, min_decoding_length=tokens,
            length_penalty=1.0,
        )  # fmt: skip
        return [[int(token[1:]) for token in result.hypotheses[0]] for result in results]

    return run


def measure(folder: Path, tokens: int, rounds: int) -> list[dict[str, object]]:
    """Tokens per second of both, by callers and beams."""
    threads = os.cpu_count() or 1
    engines = {"lmaas": ours(folder, threads), "ctranslate2": theirs(folder, threads)}
    chance = np.random.default_rng(0)
    found: list[dict[str, object]] = []
    for beams in (1, 4):
        for callers in CALLERS if beams == 1 else CALLERS[:2]:
            sources = [
                chance.integers(2, PAD, int(chance.integers(SOURCE_TOKENS // 2, SOURCE_TOKENS + 1)))
                for _ in range(callers)
            ]
            times: dict[str, list[float]] = {name: [] for name in engines}
            answers = {name: run(sources, tokens, beams) for name, run in engines.items()}
            for number in range(rounds):
                order = list(engines) if number % 2 else list(engines)[::-1]
                for name in order:
                    gc.collect()
                    start = time.perf_counter()
                    engines[name](sources, tokens, beams)
                    times[name].append(time.perf_counter() - start)
            speed = {n: callers * tokens / statistics.median(t) for n, t in times.items()}
            best = {n: callers * tokens / min(t) for n, t in times.items()}
            same = sum(a == b for a, b in zip(*answers.values(), strict=True))
            row: dict[str, object] = {
                "callers": callers, "beams": beams, "tokens_per_s": speed, "best": best,
                "ratio": speed["lmaas"] / speed["ctranslate2"],
                "ratio_of_best": best["lmaas"] / best["ctranslate2"],
                "same_answers": f"{same} of {callers}",
            }  # fmt: skip
            print(json.dumps(row), flush=True)
            found.append(row)
    return found


def report(told: dict[str, Any]) -> str:
    """The results as a page."""
    machine, versions = told["machine"], told["versions"]
    lines = [
        "# Translation beside CTranslate2",
        "",
        f"{machine['cores']} cores, {machine['processor'] or 'x86-64'}; "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
        + f". {told['network']}; {told['tokens_per_answer']} tokens an answer. f32 on both sides, "
        "engines in process, turns in one run. `make bench BENCH=translation`.",
        "",
        told.get("remark", ""),
        "",
        "| beams | callers | LMaaS, tokens/s | CTranslate2 | ratio of medians | of best rounds | "
        "same answers |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in told["rows"]:
        speed = row["tokens_per_s"]
        lines.append(
            f"| {row['beams']} | {row['callers']} | {speed['lmaas']:.0f} | "
            f"{speed['ctranslate2']:.0f} | {row['ratio']:.2f} | {row['ratio_of_best']:.2f} | "
            f"{row['same_answers']} |"
        )
    goals = {1: 1.0, 32: 1.5}
    missed = [
        f"{row['callers']} callers: {row['ratio']:.2f} of {goals[row['callers']]}"
        for row in told["rows"]
        if row["beams"] == 1 and row["ratio"] < goals.get(row["callers"], 0)
    ]
    lines += ["", "Goals: at least 1 times its tokens/s at 1 caller, 1.5 times at 32. "
              + (f"Missed: {'; '.join(missed)}." if missed else "Both are met.")]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of few tokens")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    if asked.quick:
        asked.tokens, asked.rounds = 8, 1
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        rows = measure(Path(folder), asked.tokens, asked.rounds)
    told = {
        "machine": {"cores": os.cpu_count(), "processor": platform.processor()},
        "versions": {n: version(n) for n in ("openvino", "ctranslate2", "numpy")},
        "network": f"Marian-shaped, {LAYERS}+{LAYERS} layers, width {WIDTH}, {VOCABULARY} tokens, "
        "random f32 weights",
        "tokens_per_answer": asked.tokens,
        "remark": f"Load average before it began: {load:.1f} (what else ran here).",
        "rows": rows,
    }
    asked.out.write_text(json.dumps(told, indent=2) + "\n")
    asked.out.with_suffix(".md").write_text(report(told))


if __name__ == "__main__":
    main()
