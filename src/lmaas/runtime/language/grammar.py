"""Proves a grammar before it reaches the engine, in a process that may hang or die over it.

OpenVINO GenAI compiles grammars inside its step, where an error breaks every running answer and a
hostile pattern holds all of them up. So each new grammar first runs on a toy model with the same
vocabulary, in a child process with a bound on time and memory. There it is also seen whether the
engine writes the fixed texts of the grammar as they were meant.
"""

import argparse
import itertools
import json
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from lmaas.errors import InvalidInput
from lmaas.runtime.language.engine import Grammar
from lmaas.runtime.language.helper import Died, Helper, Slow, serve

COMPILE_TIMEOUT_S: Final = 0.8
"""Of time, and of the child's own work in it: on a busy machine it has longer, to `PATIENCE_S`."""
PATIENCE_S: Final = 4.0
MEMORY_BYTES: Final = 8 << 30
REMEMBERED: Final = 512
TOY_WIDTH: Final = 16
MOST_COMPARED: Final = 200
"""So many places of a grammar's fixed texts are compared with what the engine makes of them."""
UNUSUAL: Final = re.compile(r"[^ -~]")
WHERE: Final = re.compile(r"\A\[[^\]]*\] \S+:\d+: ")
"""What the compiler puts before its messages: a time and a place in its own source."""
TOKENIZER_FILES: Final = ("openvino_tokenizer", "openvino_detokenizer")


class Prover:
    """Says which grammars the model's engine can compile. Thread-safe."""

    def __init__(self, folder: Path, vocabulary_size: int) -> None:
        arguments = ["--folder", str(folder), "--vocabulary-size", str(vocabulary_size)]
        self._helper = Helper(__name__, arguments)
        self._lock = threading.Lock()
        self._known: OrderedDict[Grammar, str] = OrderedDict()

    def known(self, grammar: Grammar) -> bool:
        """Whether it was proven. Never waits. Raises InvalidInput for what did not compile."""
        problem = self._known.get(grammar)
        _refuse(grammar, problem)
        return problem is not None

    def check(self, grammar: Grammar) -> None:
        """Raises InvalidInput, with the compiler's reason, for a grammar that does not compile."""
        with self._lock:
            problem = self._known.get(grammar)
            if problem is None:
                problem = self._prove(grammar)
                self._known[grammar] = problem
                if len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
        _refuse(grammar, problem)

    def close(self) -> None:
        """End the child."""
        self._helper.close()

    def _prove(self, grammar: Grammar) -> str:
        try:
            self._helper.begin()
        except (Died, Slow):
            raise InvalidInput(
                "Structured output is not possible with this model: its vocabulary cannot be read.",
                param="response_format",
            ) from None
        try:
            answer = self._helper.ask(
                msgspec.json.encode(grammar), limit_s=COMPILE_TIMEOUT_S, patience_s=PATIENCE_S
            )
        except Slow:
            return f"compiling it takes longer than {COMPILE_TIMEOUT_S:g} s."
        except Died:
            return "it ends the process that compiles it."
        problem, is_broken = json.loads(answer)
        if is_broken:
            self._helper.close()  # its pipeline is: the next grammar gets a new one
        return str(problem)


def _refuse(grammar: Grammar, problem: str | None) -> None:
    if problem:
        param = "tools" if grammar.kind == "tools" else "response_format"
        raise InvalidInput(f"The schema cannot be used: {problem}", param=param)


def toy_model(vocabulary_size: int) -> Any:
    """One attention layer over this vocabulary, with a KV cache: the least that GenAI runs."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as op

    width = TOY_WIDTH
    random = np.random.default_rng(0)

    def constant(value: Any, dtype: Any = np.int64) -> Any:
        return op.constant(np.asarray(value), dtype=dtype)

    def matrix(rows: int) -> Any:
        return op.constant(random.standard_normal((rows, width)).astype(np.float32))

    parameters = []
    for name, shape, dtype in (
        ("input_ids", [-1, -1], np.int64),
        ("attention_mask", [-1, -1], np.int64),
        ("position_ids", [-1, -1], np.int64),
        ("beam_idx", [-1], np.int32),
    ):
        parameter = op.parameter(shape, dtype, name=name)
        parameter.output(0).get_tensor().set_names({name})
        parameters.append(parameter)
    ids, mask, positions, beams = parameters
    axis = constant(0, np.int32)
    embedding = matrix(vocabulary_size)
    hidden = op.gather(embedding, ids, axis)
    split = constant([0, 0, 1, width])
    turn = constant([0, 2, 1, 3])

    def head() -> Any:
        return op.transpose(
            op.reshape(op.matmul(hidden, matrix(width), False, False), split, True), turn
        )

    batch = op.gather(op.shape_of(ids), constant([0]), axis)
    empty = op.broadcast(
        op.constant(0.0, dtype=np.float32), op.concat([batch, constant([1, 0, width])], 0)
    )
    query, states, sinks = head(), [], []
    for name in ("key", "value"):
        past = op.read_value(empty, name, np.float32, ov.PartialShape([-1, 1, -1, width]))
        state = op.concat([op.gather(past, beams, axis), head()], 2)
        states.append(state)
        sinks.append(op.assign(state, name))
    lengths = [op.gather(op.shape_of(x), constant([1]), axis) for x in (ids, mask)]
    allowed = op.broadcast(
        op.constant(0.0, dtype=np.float32), op.concat([batch, constant([1]), *lengths], 0)
    )
    attended = op.scaled_dot_product_attention(query, *states, allowed)
    joined = op.reshape(op.transpose(attended, turn), constant([0, 0, width]), True)
    # The runtime wants every input to reach the output.
    place = op.unsqueeze(op.convert(positions, "f32"), constant(2))
    joined = op.add(joined, op.multiply(place, op.constant(1e-9, dtype=np.float32)))
    logits = op.matmul(op.add(hidden, joined), embedding, False, True)
    logits.output(0).get_tensor().set_names({"logits"})
    return ov.Model([op.result(logits)], sinks, parameters, "toy")


def main() -> None:
    """Answer each grammar by "" or what is wrong with it, and whether that broke the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--vocabulary-size", required=True, type=int)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:

        def make() -> Callable[[bytes], bytes]:
            pipe = _pipeline(arguments.folder, Path(scratch), arguments.vocabulary_size)
            numbers = itertools.count()

            def answer(frame: bytes) -> bytes:
                grammar = msgspec.json.decode(frame, type=Grammar)
                return json.dumps(_problem(pipe, next(numbers), grammar)).encode()

            return answer

        serve(make, MEMORY_BYTES)


def _pipeline(folder: Path, scratch: Path, vocabulary_size: int) -> Any:
    import openvino as ov
    import openvino_genai as genai

    ov.save_model(toy_model(vocabulary_size), scratch / "openvino_model.xml")
    (scratch / "config.json").write_text('{"model_type": "llama"}')
    for name in TOKENIZER_FILES:
        for suffix in (".xml", ".bin"):
            (scratch / (name + suffix)).symlink_to((folder / (name + suffix)).absolute())
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = 8
    return genai.ContinuousBatchingPipeline(
        str(scratch), scheduler, "CPU", {"INFERENCE_NUM_THREADS": 1}
    )


def _problem(pipe: Any, number: int, grammar: Grammar) -> tuple[str, bool]:
    """What is wrong with a grammar, and whether that broke the pipeline."""
    from lmaas.runtime.language.grammar_openvino import compared, structured
    from lmaas.runtime.language.pattern_grammar import Unfit

    try:
        wanted = structured(grammar)
        texts = windows(grammar)
    except (Unfit, RecursionError) as error:
        return f"{str(error)[:300]}.", False
    try:
        _written(pipe, 2 * number, wanted, 1)
        if not texts:
            return "", False
        text = "x" + "".join(texts)
        found = _written(pipe, 2 * number + 1, compared(grammar, texts), len(text.encode()))
    except (RuntimeError, ValueError, MemoryError) as error:
        told = " ".join(str(error).split())
        told = WHERE.sub("", told).rpartition("is false: ")[2]
        return told[:300] or type(error).__name__, True
    # Tokenizers may change blanks, and a vocabulary may lack what it cannot write.
    written, meant = ("".join(one.split()) for one in (found, text))
    if meant.startswith(written.rstrip("\ufffd")):
        return "", False
    place = next(i for i, both in enumerate(zip(written, meant, strict=False)) if len({*both}) > 1)
    return f"the engine misreads the text {meant[max(0, place - 2) : place + 2]!a} in it.", False


def _written(pipe: Any, number: int, wanted: Any, max_tokens: int) -> str:
    """What the toy model writes under a grammar."""
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    config = genai.GenerationConfig()
    config.max_new_tokens = max_tokens
    config.structured_output_config = wanted
    # A request whose handle is let go of is dropped unseen.
    handle = pipe.add_request(number, ov.Tensor(np.zeros((1, 1), np.int64)), config)
    while pipe.has_non_finished_requests():
        pipe.step()
    ids = [token for part in handle.read_all() for token in part.generated_ids]
    return str(pipe.get_tokenizer().decode(ids)) if max_tokens > 1 else ""


def windows(grammar: Grammar) -> list[str]:
    """What of a grammar's fixed texts an engine may misread: characters that are no plain ASCII,
    with those beside them, each once.
    """
    told = json.loads(grammar.text) if grammar.text else {}
    schemas = [told] if grammar.kind != "tools" else [tool["parameters"] for tool in told["tools"]]
    if grammar.kind == "tools" and told["schema"] is not None:
        schemas.append(told["schema"])
    found: dict[str, None] = {}
    for text in _fixed(schemas):
        for match in UNUSUAL.finditer(text):
            found[text[max(0, match.start() - 1) : match.end() + 1]] = None
    return list(found)[:MOST_COMPARED]


def _fixed(value: Any) -> Iterator[str]:
    """The texts that a schema asks for as they are: names of properties, and values."""
    if isinstance(value, list):
        for inner in value:
            yield from _fixed(inner)
    if not isinstance(value, dict):
        return
    for keyword in ("properties", "required", "enum"):
        for inner in value.get(keyword) or ():
            yield json.dumps(inner, ensure_ascii=False)
    yield json.dumps(value.get("const"), ensure_ascii=False)
    for inner in value.values():
        yield from _fixed(inner)


if __name__ == "__main__":
    main()
