"""The graph of a model that reads: its network, the mask that it takes, and what pools its answer.

Knows torch modules and how a network reads its mask; knows no files.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.runtime import ov
from lmaas.tasks import Tensors, text

Pooling = Literal["mean", "cls", "last"]
MASKED: Final = -1e9
EXTRA_PADDING: Final = 24


class Layers(NamedTuple):
    """What follows the network: how its vectors become one, and whether that has length 1.

    Without pooling each token keeps its own.
    """

    pooling: Pooling | None
    normalize: bool


TOKENS: Final = Layers(None, normalize=False)


def answer_of(told: Any) -> Any:
    """What a network gives for each text or token; beginnings and ends of answers side by side."""
    import torch

    if getattr(told, "start_logits", None) is None:
        return told[0]
    return torch.stack([told.start_logits, told.end_logits], -1)


def pool_one(hidden: Any, layers: Layers | None) -> Any:
    """The answer to one text without padding, straight from the definition."""
    if layers is None or layers.pooling is None:
        return hidden
    vector = {"mean": hidden.mean(1), "cls": hidden[:, 0], "last": hidden[:, -1]}[layers.pooling]
    return vector / vector.norm(dim=1, keepdim=True) if layers.normalize else vector


def convert(
    model: Any, layers: Layers | None, sample: tuple[Tensors, Tensors], *, causal: bool
) -> Any:
    """The network and its layers as an `openvino.Model`; see `find_reader`."""
    import torch

    example = tuple(torch.from_numpy(array) for array in sample[0].values())
    return find_reader(
        model,
        layers,
        sample,
        lambda reader: ov.load().convert_model(reader, example_input=example),
        causal=causal,
    )


def find_reader(
    model: Any,
    layers: Layers | None,
    sample: tuple[Tensors, Tensors],
    use: Callable[[Any], Any],
    *,
    causal: bool,
) -> Any:
    """What `use` makes of a reader: the network and its layers as one module that can be traced.

    Its inputs are those of `sample`, in order. Masks are given to the network ready made, because
    what makes them does not trace; a network that reads them otherwise gets the plain mask. Which
    it is shows in the answers, to texts longer than the network's window too. Raises InvalidInput
    when no mask gives the source's answers.
    """
    import torch

    checks = [sample, *_beyond_window(model, layers, list(sample[0]))]
    told = "the source's answers are not reached"
    for make_mask in _masks(model, causal=causal):
        reader = _reader(model, layers, list(sample[0]), make_mask, causal=causal)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of itself and of every Python branch
            try:
                if all(_gives(reader, *check) for check in checks):
                    return use(reader)
            except Exception as error:  # noqa: BLE001 - OpenVINO wraps whatever tracing raised
                told = " ".join(str(error).split())[:300]
    raise InvalidInput(f"The model cannot be compiled: {told}.")


def _gives(reader: Any, inputs: Tensors, outputs: Tensors) -> bool:
    import torch

    (want,) = outputs.values()
    got = reader(*(torch.from_numpy(array) for array in inputs.values())).numpy()
    return bool(np.allclose(got, want, atol=1e-4))


def _window(model: Any) -> int | None:
    """How far a token looks, where the config says that some layers look only so far."""
    window = getattr(model.config, "sliding_window", None)
    return window if window and getattr(model.config, "use_sliding_window", True) else None


def _beyond_window(
    model: Any, layers: Layers | None, names: Sequence[str]
) -> Iterator[tuple[Tensors, Tensors]]:
    """Where layers look only so far: a text longer than that, and the source's answer."""
    import torch

    window = _window(model)
    if window is None or text.TYPES in names:
        return
    length = min(window + EXTRA_PADDING, int(model.config.max_position_embeddings))
    size = int(model.get_input_embeddings().weight.shape[0])
    ids = torch.from_numpy(np.random.default_rng(0).integers(size // 2, size, (1, length)))
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        answer = pool_one(answer_of(model(input_ids=ids, attention_mask=mask)), layers)
    yield {text.IDS: ids.numpy(), text.MASK: mask.numpy()}, {"": answer.numpy()}


def _masks(model: Any, *, causal: bool) -> Iterator[Callable[[Any], Any]]:
    """Ways to give the network its mask, the one that it most plausibly takes first."""
    window = _window(model)
    if window is not None:
        # Some networks count the last token within reach, some do not.
        for reach in (window - 1,) if causal else (window, window - 1):
            near = partial(_additive, causal=causal, reach=reach)
            if "full_attention" in (getattr(model.config, "layer_types", None) or ()):
                yield partial(_by_layer, near=near, causal=causal)
            yield near
    yield partial(_additive, causal=causal)
    yield lambda mask: mask


def _by_layer(mask: Any, *, near: Callable[[Any], Any], causal: bool) -> dict[str, Any]:
    return {"full_attention": _additive(mask, causal=causal), "sliding_attention": near(mask)}


def _reader(
    model: Any,
    layers: Layers | None,
    names: Sequence[str],
    make_mask: Callable[[Any], Any],
    *,
    causal: bool,
) -> Any:
    import torch

    pad = int(getattr(model.config, "pad_token_id", None) or 0)
    options = {"use_cache": False} if causal else {}

    class Reader(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """Token ids and mask in, one row for each text out; padding is the model's own."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            """The answer to padded texts."""
            given = dict(zip(names, tensors, strict=True))
            mask = given[text.MASK]
            given[text.IDS] = given[text.IDS] * mask + (1 - mask) * pad
            given[text.MASK] = make_mask(mask)
            return _pool(answer_of(self.model(**given, **options)), mask, layers)

    return Reader().eval()


def _additive(mask: Any, *, causal: bool, reach: int | None = None) -> Any:
    """[batch, 1, 1 or length, length]: 0 where a token may look, a large negative number else.

    `reach` is the distance of the farthest token that it sees.
    """
    import torch

    hidden = (1.0 - mask[:, None, None, :].to(torch.float32)) * MASKED
    place = torch.arange(mask.shape[1], device=mask.device)
    ahead = place[None, :] - place[:, None]
    if causal:
        hidden = hidden + (ahead > 0).to(torch.float32) * MASKED
    if reach is not None:
        hidden = hidden + (ahead.abs() > reach).to(torch.float32) * MASKED
    return hidden


def _pool(hidden: Any, mask: Any, layers: Layers | None) -> Any:
    """One vector for each text, or each of its tokens, whatever its padding."""
    import torch

    if layers is None:
        return hidden
    if layers.pooling is None:
        return hidden * mask[:, :, None].to(hidden.dtype)
    if layers.pooling == "cls":
        vector = hidden[:, 0]
    else:
        weight = mask
        if layers.pooling == "last":
            weight = mask * (mask.cumsum(1) == mask.sum(1, keepdim=True)).to(mask.dtype)
        weight = weight.to(hidden.dtype)[:, :, None]
        vector = (hidden * weight).sum(1) / weight.sum(1)
    return torch.nn.functional.normalize(vector, dim=1) if layers.normalize else vector
