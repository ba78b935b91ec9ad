"""A checkpoint of an encoder becomes a classifier through a server."""

import json
from pathlib import Path

import pytest

import lmaas
from checkpoints import make_encoder
from lmaas.errors import ContextLengthExceeded

TEXTS = {
    "fox": ("the quick brown fox", "a lazy dog jumps", "the fox jumps over the dog"),
    "hello": ("hello how are you", "i am fine today", "fine thank you world"),
}


def test_a_checkpoint_is_pushed_tuned_and_asked(tmp_path: Path) -> None:
    bert = make_encoder(tmp_path / "bert")
    data = tmp_path / "topics.jsonl"
    lines = [
        {"text": f"{text} {number}", "label": label}
        for label, texts in TEXTS.items()
        for text in texts
        for number in range(8)
    ]
    data.write_text("\n".join(map(json.dumps, lines)))
    with lmaas.local(tmp_path / "home") as client:
        job = lmaas.train(
            url=client.url,
            key=client.key,
            name="topics",
            task="text-classification",
            model={"base": str(bert)},
            data={"train": str(data), "validation": 0.25},
            batch_size=8,
            epochs=8,
            optimizer={"learning_rate": 3e-3},
        )
        assert job.recipe["model"]["base"] == "topics-base:1"
        version = client.model("topics")
        assert version.manifest.lineage.parent == "topics-base:1"
        assert version.parity.passed("f32")
        answers = client.predict("topics", ["a lazy dog jumps 9", "hello how are you 9"])
        assert [labels[0].label for labels in answers] == ["fox", "hello"]
        long = "hello how are you " * 20
        with pytest.raises(ContextLengthExceeded, match="truncation"):
            client.predict("topics", [long])
        (cut,) = client.predict("topics", [long], truncation=True)
        assert cut[0].label == "hello"
