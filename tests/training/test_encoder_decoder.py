"""The encoder-decoder: one layout of weights, one network in all frameworks and in transformers."""

import importlib
from typing import Any

import numpy as np
import pytest

from lmaas.recipe import TrainingFramework
from lmaas.tasks.architectures import Shape
from lmaas.tasks.translation.options import EncoderDecoder
from lmaas.training import encoder_decoder as layout
from lmaas.training import pairs
from lmaas.training.base import IGNORED
from training_kit import FRAMEWORKS

SIZES = EncoderDecoder(width=16, layers=2, heads=4, dropout=0.1, feed=(24, 40, 16, 32))
EVEN = EncoderDecoder(width=16, layers=2, heads=2, dropout=0.0)
VOCABULARY, MOST = 50, 32


def random_weights(sizes: EncoderDecoder) -> layout.Weights:
    weights = layout.draw(sizes, VOCABULARY, 3)
    chance = np.random.default_rng(1)
    return {
        name: (array + 0.1 * chance.standard_normal(array.shape)).astype(np.float32)
        for name, array in weights.items()
    }


def batch() -> dict[str, np.ndarray]:
    chance = np.random.default_rng(0)
    sources = [chance.integers(4, VOCABULARY, n).astype(np.int32) for n in (7, 3, 12)]
    targets = [chance.integers(4, VOCABULARY, n).astype(np.int32) for n in (5, 9, 2)]
    return pairs.Encoded(sources, targets).feed(np.arange(3)).inputs


def network(framework: TrainingFramework, sizes: EncoderDecoder) -> tuple[Any, Any]:
    module = importlib.import_module(f"lmaas.training.{framework}.encoder_decoder")
    return module, module.build(sizes, VOCABULARY, MOST, random_weights(sizes))


def logits(framework: TrainingFramework, sizes: EncoderDecoder) -> np.ndarray:
    module, model = network(framework, sizes)
    encode, decode = module.decoder_of(model)
    given = batch()
    memory = encode(given["input_ids"], given["attention_mask"])
    told: np.ndarray = decode(memory, given["attention_mask"], given["decoder_input_ids"])
    return told


def by_transformers(sizes: EncoderDecoder) -> np.ndarray:
    import torch
    from transformers.models.m2m_100 import M2M100Config, M2M100ForConditionalGeneration

    config = layout.config(sizes, VOCABULARY, MOST)
    config.pop("architectures")
    model = M2M100ForConditionalGeneration(M2M100Config(**config)).eval()
    weights = layout.checkpoint(random_weights(sizes))
    found = model.load_state_dict({n: torch.tensor(a) for n, a in weights.items()}, strict=False)
    assert not found.unexpected_keys
    assert all("embed_tokens" in name or "lm_head" in name for name in found.missing_keys)
    with torch.inference_mode():
        told = model(**{name: torch.tensor(array) for name, array in batch().items()})
    return np.asarray(told.logits.numpy())


def seen(told: np.ndarray) -> np.ndarray:
    """Without what follows padding, which means nothing."""
    kept: np.ndarray = told[batch()["decoder_input_ids"] != layout.PAD]
    return kept


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_same_weights_give_the_same_logits(framework: TrainingFramework) -> None:
    told = logits(framework, EVEN)
    np.testing.assert_allclose(seen(told), seen(by_transformers(EVEN)), atol=2e-5, rtol=1e-4)
    uneven = logits(framework, SIZES)
    np.testing.assert_allclose(seen(uneven), seen(logits("pytorch", SIZES)), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_weights_come_out_as_they_went_in(framework: TrainingFramework) -> None:
    module, model = network(framework, SIZES)
    found = module.weights_of(model, SIZES)
    wanted = random_weights(SIZES)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_padding_changes_nothing(framework: TrainingFramework) -> None:
    module, model = network(framework, SIZES)
    encode, decode = module.decoder_of(model)
    given = batch()
    length = int(given["attention_mask"][1].sum())
    ids = given["input_ids"][1:2, :length]
    mask = np.ones_like(ids)
    alone = decode(encode(ids, mask), mask, given["decoder_input_ids"][1:2])
    memory = encode(given["input_ids"], given["attention_mask"])
    together = decode(memory, given["attention_mask"], given["decoder_input_ids"])[1:2]
    np.testing.assert_allclose(alone, together, atol=2e-5, rtol=1e-4)


def test_parameters_are_counted() -> None:
    weights = layout.draw(SIZES, VOCABULARY, 0)
    assert SIZES.parameters(Shape(tokens=VOCABULARY)) == sum(a.size for a in weights.values())


def test_feeds_are_shifted_and_padded() -> None:
    sources = [np.array([5, 6, layout.EOS], np.int32), np.array([7, layout.EOS], np.int32)]
    feed = pairs.Encoded(sources, sources).feed(np.array([0, 1]))
    assert feed.weight == 5
    np.testing.assert_array_equal(feed.inputs["attention_mask"], [[1, 1, 1, 0], [1, 1, 0, 0]])
    np.testing.assert_array_equal(
        feed.inputs["decoder_input_ids"], [[2, 5, 6, 2], [2, 7, 2, layout.PAD]]
    )
    np.testing.assert_array_equal(
        feed.targets["labels"], [[5, 6, 2, IGNORED], [7, 2, IGNORED, IGNORED]]
    )


def test_what_is_written_greedily() -> None:
    script = np.array([[5, 6, layout.EOS, 9], [7, layout.EOS, 9, 9], [8, 8, 8, 8]])

    def decode(memory: Any, mask: np.ndarray, ids: np.ndarray) -> np.ndarray:
        scores = np.zeros((*ids.shape, 10))
        for row, at in np.ndindex(ids.shape):
            scores[row, at, script[row, at]] = 1
        return scores

    feed = pairs.Encoded([np.array([4, 2], np.int32)] * 3, [np.array([4, 2], np.int32)] * 3)
    told = pairs.write_greedily((lambda ids, mask: None, decode), feed.feed(np.arange(3)), 4)
    assert told == [[5, 6], [7], [8, 8, 8, 8]]
