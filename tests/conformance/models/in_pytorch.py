"""PyTorch models of the sweep. Types are given where TorchScript needs them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conformance.models.case import Case, floats, rows, wholes

X = floats(4, 6)
SEQUENCE = floats(3, 10, 6)
LONGER = ((floats(2, 17, 6, seed=1),), (floats(5, 3, 6, seed=2),))


class TwoInputs(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(256, 64), nn.Linear(256, 64)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.left(x) + self.right(y)


class Branch(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        if bool(x.max() > 2):
            x = x / 255
        return x


class EarlyExit(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).softmax(-1)
        if bool(y.max() > 0.8):
            return y
        return self.second(x).softmax(-1)


class Halving(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        steps = 0
        while bool(x.abs().max() > 1) and steps < 50:
            x = x / 2
            steps += 1
        return x


class UpToLongest(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        longest = int(lengths.max())
        return x[:, :longest].sum(1)


class ByNumpy(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return x * float(np.sort(x.numpy().reshape(-1))[-1])


class OwnScale(nn.Module):  # type: ignore[misc]
    """Reads a value, but one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.item()


class Hashed(nn.Module):  # type: ignore[misc]
    def forward(self, ids: Tensor) -> Tensor:
        return ids * 2654435761 % 1000


class Seconds(nn.Module):  # type: ignore[misc]
    def forward(self, t: Tensor) -> Tensor:
        return (t - 1.7e9).float()


class Logarithm(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.log(x), x / torch.relu(x)


class Recurrent(nn.Module):  # type: ignore[misc]
    def __init__(self, kind: str = "LSTM") -> None:
        super().__init__()
        self.cell = getattr(nn, kind)(6, 5, batch_first=True, bidirectional=kind == "LSTM")

    def forward(self, x: Tensor) -> Any:
        return self.cell(x)


class WithState(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(6, 5, batch_first=True)

    def forward(self, x: Tensor, state: Tensor) -> Any:
        return self.cell(x, state)


class Packed(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(6, 5, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        return self.cell(packed)[1][0][-1]


class Masked(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(x, src_key_padding_mask=mask)
        return hidden.masked_fill(mask[..., None], 0.0).sum(1)


class Positions(nn.Module):  # type: ignore[misc]
    """Learned positions: no more than so many."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 8), nn.Embedding(24, 8)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.words(ids) + self.places(places)


class Bag(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(50, 4)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        return self.bag(ids, offsets)


class FromMean(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class RowsFirst(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(1, len(x), 12) + x.sum()


class Random(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Counting(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Hooked(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)
        self.register_forward_pre_hook(lambda _, given: (given[0] * 2,))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Waves(nn.Module):  # type: ignore[misc]
    """A 1-D signal of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, 8, 9, 4), nn.GELU(), nn.Conv1d(8, 4, 5, 2), nn.GELU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x[:, None]).mean(-1)


class Nearest(nn.Module):  # type: ignore[misc]
    """Whole numbers out."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 1e10).to(torch.int64)


class Scored(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = self.layer(x)
        return {"scores": scores, "best": scores.argmax(-1)}


def images() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def quantised() -> Any:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    return torch.ao.quantization.quantize_dynamic(network, {nn.Linear})


def hugging_face(kind: str) -> Any:
    import transformers as t

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    if kind == "tokens":
        config = t.BertConfig(**small, intermediate_size=64, vocab_size=60, num_labels=5)
        return t.BertForTokenClassification(config).eval()
    if kind == "speech":
        config = t.Wav2Vec2Config(
            **small, intermediate_size=64, conv_dim=(16, 16), conv_stride=(5, 2),
            conv_kernel=(10, 3), num_feat_extract_layers=2, num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4, vocab_size=20,
        )  # fmt: skip
        return t.Wav2Vec2ForCTC(config).eval()
    if kind == "t5":
        config = t.T5Config(
            d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=60,
            relative_attention_max_distance=20,
        )  # fmt: skip
        return t.T5EncoderModel(config).eval()
    if kind == "vit":
        config = t.ViTConfig(**small, intermediate_size=64, image_size=32, patch_size=8)
        return t.ViTForImageClassification(config).eval()
    if kind == "convnext":
        config = t.ConvNextConfig(hidden_sizes=[16, 32, 32, 32], depths=[1, 1, 1, 1], image_size=32)
        return t.ConvNextForImageClassification(config).eval()
    if kind == "cache":
        config = t.LlamaConfig(
            **small, intermediate_size=64, vocab_size=60, num_key_value_heads=2,
            max_position_embeddings=64,
        )  # fmt: skip
        return t.LlamaForCausalLM(config).eval()
    raise AssertionError(kind)


def script(model: Any) -> Any:
    return torch.jit.script(model)


MASK = np.zeros((3, 5), bool)
MASK[1, 3:] = MASK[2, 2:] = True
OTHER_MASK = np.zeros((2, 9), bool)
OTHER_MASK[0, 4:] = True
TIME = {"x": {1: "time"}}
TOKENS = wholes(0, 59, 3, 10)
IMAGES = floats(2, 3, 32, 32)
CASES = [
    Case(
        "two inputs, 1 KiB each",
        TwoInputs,
        (floats(4, 256), floats(4, 256, seed=1)),
        tuple((floats(n, 256, seed=n), floats(n, 256, seed=n + 99)) for n in (1, 2, 5, 64)),
        small=True,
    ),
    Case("a classifier", lambda: nn.Sequential(nn.Linear(6, 32), nn.Dropout(), nn.Linear(32, 3)),
         (X,), rows(6)),
    Case("a branch on values", Branch, (X,), rows(6), small=True),
    Case("an early exit", EarlyExit, (X,), rows(6)),
    Case("while on values", Halving, (X,), rows(6), small=True),
    Case(
        "up to the longest",
        UpToLongest,
        (floats(4, 10), np.array([3, 5, 2, 7])),
        ((floats(2, 10, seed=4), np.array([9, 1])), (floats(1, 10, seed=5), np.array([4]))),
    ),
    Case("sorts in numpy", ByNumpy, (X,), refused="reads values"),
    Case("reads a value of its own", OwnScale, (X,), rows(6)),
    Case("hashes of 64 bits", Hashed, (wholes(0, 2000, 6, 7),),
         ((wholes(0, 1 << 60, 5, 7, seed=1),), (wholes(-(1 << 40), 1 << 40, 2, 7, seed=2),)),
         small=True),
    Case("timestamps in float64", Seconds, (np.array([1.7e9 + 1, 1.7e9 + 2]),),
         ((np.array([1.7e9 + 3.25, 1.7e9, 1.7e9 - 7]),),), small=True),
    Case("NaN and infinity out", Logarithm, (X,), rows(6)),
    Case("whole numbers beyond 32 bits out", Nearest, (X,), rows(6)),
    Case("LSTM with its states", Recurrent, (SEQUENCE,),
         ((floats(1, 10, 6, seed=1),), (floats(6, 10, 6, seed=2),))),
    Case("LSTM over any time", Recurrent, (SEQUENCE,), LONGER, {"dynamic": TIME}, small=True),
    Case("GRU shown at two lengths", lambda: Recurrent("GRU"), (SEQUENCE,), LONGER,
         {"second_sample": floats(3, 12, 6)}),
    Case(
        "a state that is given",
        WithState,
        (floats(4, 7, 6), floats(1, 4, 5)),
        ((floats(2, 7, 6, seed=3), floats(1, 2, 5, seed=4)),),
    ),
    Case(
        "pack_padded_sequence",
        Packed,
        (floats(4, 7, 6), np.array([7, 3, 5, 2])),
        ((floats(3, 7, 6, seed=1), np.array([2, 7, 4])), (floats(1, 7, 6, seed=2), np.array([5]))),
    ),
    Case(
        "nn.Transformer",
        lambda: nn.Transformer(32, 4, 1, 1, 64, batch_first=True),
        (floats(3, 5, 32), floats(3, 6, 32, seed=1)),
        ((floats(1, 5, 32, seed=2), floats(1, 6, 32, seed=3)),
         (floats(4, 5, 32, seed=4), floats(4, 6, 32, seed=5))),
    ),
    Case(
        "a padding mask over any time",
        Masked,
        (floats(3, 5, 32), MASK),
        ((floats(2, 9, 32, seed=1), OTHER_MASK), (floats(1, 2, 32, seed=2), np.zeros((1, 2), bool)),
         (floats(4, 5, 32, seed=3), np.arange(5)[None] >= np.array([[1], [2], [3], [5]]))),
        {"dynamic": {"x": {1: "time"}, "mask": {1: "time"}}},
    ),
    Case("learned positions", Positions, (wholes(0, 49, 3, 10),),
         ((wholes(0, 49, 2, 24, seed=1),), (wholes(0, 49, 1, 1, seed=2),)),
         {"dynamic": {"ids": {1: "length"}}}, small=True),
    Case("EmbeddingBag with offsets", Bag, (np.arange(10), np.array([0, 3, 6])),
         ((wholes(0, 49, 10, seed=1), np.array([0, 0, 9])),)),
    Case("rows that depend on each other", FromMean, (X,), rows(6), small=True),
    Case("the batch in a second axis", RowsFirst, (X,), rows(6)),
    Case("hooks that read input[0]", Hooked, (X,), rows(6)),
    Case("half precision", lambda: nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))
         .half(), (X.astype(np.float16),), tuple((r[0].astype(np.float16),) for r in rows(6))),
    Case("bfloat16", lambda: nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))
         .bfloat16(), (torch.from_numpy(X).bfloat16(),),
         tuple((torch.from_numpy(r[0]).bfloat16(),) for r in rows(6))),
    Case("float64", lambda: nn.Linear(6, 3).double(), (X.astype(np.float64),),
         tuple((r[0].astype(np.float64),) for r in rows(6))),
    Case("quantised to int8", quantised, (X,), rows(6)),
    Case("torch.jit.trace", lambda: torch.jit.trace(nn.Linear(6, 2).eval(), torch.randn(4, 6)),
         (X,), rows(6)),
    Case("torch.jit.script", lambda: script(Halving()), (X,), rows(6)),
    Case("torch.export", lambda: torch.export.export(
        nn.Linear(6, 2), (torch.randn(4, 6),), dynamic_shapes={"input": {0: torch.export.Dim.AUTO}}
    ).module(), (X,), tuple(r for r in rows(6) if len(r[0]) > 1)),
    Case("random numbers", Random, (X,)),
    Case("counts its calls", Counting, (X,), refused="each time"),
    Case("images of any size", images, (floats(2, 3, 16, 16),),
         ((floats(1, 3, 24, 31, seed=1),), (floats(3, 3, 9, 8, seed=2),)),
         {"dynamic": {"input": {2: "height", 3: "width"}}}),
    Case("a signal of any length", Waves, (floats(2, 400),),
         ((floats(1, 1733, seed=1),), (floats(3, 99, seed=2),)), {"dynamic": {"x": {1: "time"}}}),
    Case("scores and the best of them", Scored, (X,), rows(6)),
    Case("BERT for tokens", lambda: hugging_face("tokens"), (TOKENS, np.ones_like(TOKENS)),
         ((wholes(0, 59, 2, 17, seed=1), np.int64(np.arange(17)[None] < np.array([[17], [4]]))),
          (wholes(0, 59, 1, 1, seed=2), np.ones((1, 1), np.int64))),
         {"dynamic": {"input_ids": {1: "length"}, "attention_mask": {1: "length"}}}),
    Case("wav2vec2", lambda: hugging_face("speech"), (floats(2, 800),),
         ((floats(1, 1500, seed=1),), (floats(3, 333, seed=2),)),
         {"dynamic": {"input_values": {1: "time"}}}),
    Case("T5's encoder", lambda: hugging_face("t5"), (TOKENS,),
         ((wholes(0, 59, 2, 41, seed=1),), (wholes(0, 59, 1, 3, seed=2),)),
         {"dynamic": {"input_ids": {1: "length"}}}),
    Case("ViT", lambda: hugging_face("vit"), (IMAGES,), ((floats(1, 3, 32, 32, seed=1),),)),
    Case("ConvNeXt", lambda: hugging_face("convnext"), (IMAGES,),
         ((floats(3, 3, 32, 32, seed=1),),)),
    Case("a model that returns its cache", lambda: hugging_face("cache"), (TOKENS,),
         ((wholes(0, 59, 2, 10, seed=1),),)),
]  # fmt: skip
