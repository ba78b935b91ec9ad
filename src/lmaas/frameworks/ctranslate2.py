"""Whisper as CTranslate2 keeps it (what users of faster-whisper have), made a plain checkpoint.

The file `model.bin` is read here, byte by byte, without that library. Source of the format:
`ctranslate2.specs.model_spec` (binary version 6) and `whisper_spec` (revision 3).
"""

import json
import math
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np

from lmaas.errors import ModelRefused
from lmaas.frameworks import refuse_checkpoint

WEIGHTS: Final = "model.bin"
TOKENIZER: Final = "tokenizer.json"
BINARY_VERSION: Final = 6
SPEC, REVISION = "WhisperSpec", 3
MAX_NAME_BYTES: Final = 512
MAX_VARIABLES: Final = 20_000
MAX_RANK: Final = 4
MAX_TOKENIZER_BYTES: Final = 64 << 20
DTYPES: Final[dict[int, "np.dtype[Any]"]] = {
    0: np.dtype("<f4"), 1: np.dtype("i1"), 2: np.dtype("<i2"), 3: np.dtype("<i4"),
    4: np.dtype("<f2"), 5: np.dtype("<u2"),
}  # fmt: skip
"""By number; 5 is bfloat16, which numpy has not: its bits are read."""
BFLOAT16: Final = 5
SCALE: Final = "_scale"
ENGLISH_ONLY: Final = 51_864
"""Vocabularies of multilingual models are larger (Radford et al. 2022)."""
LAYER_NORM: Final = {"gamma": "weight", "beta": "bias"}
CONVERT: Final = "Push the Hugging Face checkpoint that it was made from."
SPECIAL: Final = (
    "<|endoftext|>", "<|startoftranscript|>", "<|translate|>", "<|transcribe|>",
    "<|startofprev|>", "<|notimestamps|>",
)  # fmt: skip


class Variable(NamedTuple):
    """What the file says of a tensor, and where its bytes begin."""

    dtype: int
    shape: tuple[int, ...]
    offset: int


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder with a model of CTranslate2's."""
    if not (path / WEIGHTS).is_file() or (path / refuse_checkpoint.SINGLE).is_file():
        return False
    with (path / WEIGHTS).open("rb") as file:
        head = file.read(8)
    if len(head) < 8:
        return False
    version, length = struct.unpack_from("<IH", head)
    return bool(version == BINARY_VERSION and 1 < length <= MAX_NAME_BYTES)


def make_checkpoint(path: Path, target: Path) -> str:
    """Write the model in `path` as a Hugging Face checkpoint into `target`; what was done.

    Raises ModelRefused for a damaged file, and for a model that is no Whisper.
    """
    from safetensors.numpy import save_file

    refuse_checkpoint.check_links(path)
    tokenizer = path / TOKENIZER
    if not tokenizer.is_file():
        raise ModelRefused(
            f"{path.name}/ has no {TOKENIZER}.",
            hint="Copy the one of the Hugging Face checkpoint that it was made from into it.",
        )
    given = refuse_checkpoint.read_json(path / "config.json", refuse_checkpoint.MAX_CONFIG_BYTES)
    target.mkdir(parents=True, exist_ok=True)
    with Weights(path / WEIGHTS) as weights:
        sizes = _sizes(weights)
        save_file(dict(_tensors(weights, sizes)), target / refuse_checkpoint.SINGLE)
        told = weights.told
    shutil.copyfile(tokenizer, target / TOKENIZER)
    ids = _special_ids(tokenizer)
    for name, content in _configs(sizes, ids, given).items():
        (target / name).write_text(json.dumps(content, indent=2), "utf-8")
    return told


class Sizes(NamedTuple):
    """How large the model is, as its tensors say."""

    width: int
    mel_bins: int
    encoder_layers: int
    encoder_heads: int
    encoder_ffn: int
    decoder_layers: int
    decoder_heads: int
    decoder_ffn: int
    vocabulary: int
    most_frames: int
    most_tokens: int


class Weights:
    """The tensors of a `model.bin`, each read when it is asked for; a context manager."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._size = path.stat().st_size
        self._file = path.open("rb")
        self._variables: dict[str, Variable] = {}
        self._aliases: dict[str, str] = {}
        self._taken: set[str] = set()
        try:
            self._scan()
        except BaseException:
            self._file.close()
            raise

    @property
    def told(self) -> str:
        """What becomes of the numbers, for people."""
        kinds = {each.dtype for each in self._variables.values() if each.shape}
        if kinds & {1, 2}:
            return "The weights came as CTranslate2's integers; they are kept as float16."
        return "The weights came as a CTranslate2 model; they are kept with the same values."

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return self._aliases.get(name, name) in self._variables

    def shape(self, name: str) -> tuple[int, ...]:
        """Its sizes. Raises ModelRefused where there is none."""
        return self._find(name).shape

    def number(self, name: str) -> int:
        """A scalar."""
        return int(self.read(name, ()))

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor of this `shape`, float16 or float32; whole numbers are divided by their scale.

        Raises ModelRefused for one that is missing or of another shape.
        """
        found = self._find(name)
        if found.shape != shape:
            raise ModelRefused(
                f"The tensor {name!a} has the shape {found.shape}; expected {shape}."
            )
        array = self._bytes(found)
        if found.dtype == BFLOAT16:
            return (array.astype("<u4") << 16).view("<f4")
        if array.dtype.kind != "i" or not shape:
            return array
        scale = self._find(name + SCALE)
        if scale.shape not in ((), (shape[0],)) or scale.dtype not in (0, 4):
            raise ModelRefused(f"The tensor {name!a} has a scale of the shape {scale.shape}.")
        divisor = self._bytes(scale).astype(np.float32)
        if not np.all(np.isfinite(divisor)) or not np.all(divisor != 0):
            raise ModelRefused(f"The scale of the tensor {name!a} is zero or no number.")
        if divisor.ndim:
            divisor = divisor.reshape(-1, *(1,) * (len(shape) - 1))
        return (array.astype(np.float32) / divisor).astype(np.float16)

    def _bytes(self, found: Variable) -> np.ndarray:
        dtype = DTYPES[found.dtype]
        self._file.seek(found.offset)
        data = self._file.read(math.prod(found.shape) * dtype.itemsize)
        array: np.ndarray = np.frombuffer(data, dtype).reshape(found.shape)
        return array

    def _find(self, name: str) -> Variable:
        found = self._variables.get(self._aliases.get(name, name))
        if found is None:
            raise ModelRefused(f"{self._name} has no tensor {name!a}.", hint=CONVERT)
        return found

    def _scan(self) -> None:
        read = _Reader(self._file, self._size, self._name)
        version = read.number("<I")
        if version != BINARY_VERSION:
            raise ModelRefused(
                f"{self._name} has the binary version {version}; {BINARY_VERSION} is read.",
                hint=CONVERT,
            )
        spec, revision = read.text(), read.number("<I")
        if (spec, revision) != (SPEC, REVISION):
            raise ModelRefused(
                f"{self._name} holds a {spec[:60]!a} of revision {revision}; of CTranslate2's "
                f"models only {SPEC} of revision {REVISION} is read.",
                hint=CONVERT,
            )
        for _ in range(read.count()):
            name, rank = read.text(), read.number("<B")
            if rank > MAX_RANK or name in self._variables:
                raise ModelRefused(f"The tensor {name!a} has {rank} axes, or stands there twice.")
            shape = tuple(read.number("<I") for _ in range(rank))
            dtype, size = read.number("<B"), read.number("<I")
            if dtype not in DTYPES:
                raise ModelRefused(f"The tensor {name!a} has a number type that is not known.")
            expected = math.prod(shape) * DTYPES[dtype].itemsize
            if size != expected & 0xFFFFFFFF:
                raise ModelRefused(
                    f"The tensor {name!a} says {size} bytes; its shape {shape} has {expected}."
                )
            self._variables[name] = Variable(dtype, shape, self._file.tell())
            read.skip(expected)
        for _ in range(read.count()):
            alias, name = read.text(), read.text()
            if name not in self._variables:
                raise ModelRefused(f"{self._name} calls {name!a} {alias!a}, but does not have it.")
            self._aliases[alias] = name
        if self._file.tell() != self._size:
            raise ModelRefused(f"{self._name} goes on after its end.")

    def __enter__(self) -> "Weights":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _Reader:
    """Numbers and names of a file that may be cut or lie."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file, self._size, self._name = file, size, name

    def number(self, kind: str) -> int:
        """The next number."""
        return int(struct.unpack(kind, self._take(struct.calcsize(kind)))[0])

    def count(self) -> int:
        """How many entries follow."""
        found = self.number("<I")
        if found > MAX_VARIABLES:
            raise ModelRefused(f"{self._name} tells of {found} entries.")
        return found

    def text(self) -> str:
        """The next name."""
        length = self.number("<H")
        if not 1 < length <= MAX_NAME_BYTES:
            raise ModelRefused(f"{self._name} has a name of {length} bytes.")
        raw = self._take(length)
        if raw[-1] or not raw[:-1].isascii():
            raise ModelRefused(f"{self._name} has a name that is none.")
        return raw[:-1].decode("ascii")

    def skip(self, size: int) -> None:
        """Go on after `size` bytes."""
        if size > self._size - self._file.tell():
            raise ModelRefused(f"{self._name} is cut off.")
        self._file.seek(size, 1)

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise ModelRefused(f"{self._name} is cut off.")
        return data


def _sizes(weights: Weights) -> Sizes:
    width, mel_bins, kernel = _axes(weights, "encoder/conv1/weight", 3)
    vocabulary, _ = _axes(weights, "decoder/embeddings/weight", 2)
    most_frames, _ = _axes(weights, "encoder/position_encodings/encodings", 2)
    most_tokens, _ = _axes(weights, "decoder/position_encodings/encodings", 2)
    layers = {
        side: next(
            n for n in range(MAX_VARIABLES)
            if not weights.has(f"{side}/layer_{n}/self_attention/linear_0/weight")
        )
        for side in ("encoder", "decoder")
    }  # fmt: skip
    heads = {side: weights.number(f"{side}/num_heads") for side in layers}
    for side, count in heads.items():
        if count < 1 or width % count or not layers[side]:
            raise ModelRefused(
                f"The {side} has {layers[side]} layers with {count} heads of {width} numbers."
            )
    ffn = {side: weights.shape(f"{side}/layer_0/ffn/linear_0/bias")[0] for side in layers}
    if kernel != 3 or mel_bins > 256:
        raise ModelRefused(f"The encoder reads {mel_bins} bands, {kernel} steps at once.")
    return Sizes(
        width, mel_bins, layers["encoder"], heads["encoder"], ffn["encoder"],
        layers["decoder"], heads["decoder"], ffn["decoder"], vocabulary, most_frames, most_tokens,
    )  # fmt: skip


def _axes(weights: Weights, name: str, rank: int) -> tuple[int, ...]:
    shape = weights.shape(name)
    if len(shape) != rank or not all(shape):
        raise ModelRefused(f"The tensor {name!a} has the shape {shape}; expected {rank} axes.")
    return shape


def _tensors(weights: Weights, sizes: Sizes) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of a WhisperForConditionalGeneration."""
    width = sizes.width
    for number, inputs in ((1, sizes.mel_bins), (2, width)):
        name = f"encoder/conv{number}"
        yield f"model.encoder.conv{number}.weight", weights.read(f"{name}/weight",
                                                                 (width, inputs, 3))  # fmt: skip
        yield f"model.encoder.conv{number}.bias", weights.read(f"{name}/bias", (width,))
    yield (
        "model.decoder.embed_tokens.weight",
        weights.read("decoder/embeddings/weight", (sizes.vocabulary, width)),
    )
    for side, layers, ffn, most in (
        ("encoder", sizes.encoder_layers, sizes.encoder_ffn, sizes.most_frames),
        ("decoder", sizes.decoder_layers, sizes.decoder_ffn, sizes.most_tokens),
    ):
        ours = f"model.{side}"
        yield (
            f"{ours}.embed_positions.weight",
            weights.read(f"{side}/position_encodings/encodings", (most, width)),
        )
        yield from _norm(weights, f"{side}/layer_norm", f"{ours}.layer_norm", width)
        for number in range(layers):
            theirs, layer = f"{side}/layer_{number}", f"{ours}.layers.{number}"
            yield from _attention(weights, f"{theirs}/self_attention", layer, "self_attn", width)
            if side == "decoder":
                yield from _attention(weights, f"{theirs}/attention", layer, "encoder_attn", width)
            yield from _norm(weights, f"{theirs}/ffn/layer_norm", f"{layer}.final_layer_norm",
                             width)  # fmt: skip
            for linear, name, out, into in (("linear_0", "fc1", ffn, width),
                                            ("linear_1", "fc2", width, ffn)):  # fmt: skip
                yield from _linear(weights, f"{theirs}/ffn/{linear}", (f"{layer}.{name}",), out,
                                   into)  # fmt: skip


def _attention(
    weights: Weights, theirs: str, layer: str, name: str, width: int
) -> Iterator[tuple[str, np.ndarray]]:
    yield from _norm(weights, f"{theirs}/layer_norm", f"{layer}.{name}_layer_norm", width)
    q, k, v, out = (f"{layer}.{name}.{part}_proj" for part in ("q", "k", "v", "out"))
    joined = ((q, k, v), (out,)) if name == "self_attn" else ((q,), (k, v), (out,))
    for number, parts in enumerate(joined):
        yield from _linear(weights, f"{theirs}/linear_{number}", parts, width, width)


def _linear(
    weights: Weights, theirs: str, parts: tuple[str, ...], out: int, into: int
) -> Iterator[tuple[str, np.ndarray]]:
    """A product, or several whose rows stand below each other. Keys have no bias."""
    whole = weights.read(f"{theirs}/weight", (len(parts) * out, into))
    bias = weights.read(f"{theirs}/bias", (len(parts) * out,))
    for number, part in enumerate(parts):
        rows = slice(number * out, (number + 1) * out)
        yield f"{part}.weight", np.ascontiguousarray(whole[rows])
        if not part.endswith(".k_proj"):
            yield f"{part}.bias", np.ascontiguousarray(bias[rows])
        elif np.any(bias[rows]):
            raise ModelRefused(f"{theirs!a} has a bias for keys, which Whisper has not.")


def _norm(weights: Weights, theirs: str, ours: str, width: int) -> Iterator[tuple[str, np.ndarray]]:
    for name, part in LAYER_NORM.items():
        yield f"{ours}.{part}", weights.read(f"{theirs}/{name}", (width,))


def _special_ids(path: Path) -> dict[str, int]:
    """The tokens that the tokenizer adds, by what they are called."""
    known = refuse_checkpoint.read_json(path, MAX_TOKENIZER_BYTES)
    added = known.get("added_tokens")
    vocabulary = known.get("model", {}).get("vocab") if isinstance(known.get("model"), dict) else {}
    found = {
        each["content"]: each["id"]
        for each in (added if isinstance(added, list) else [])
        if isinstance(each, dict)
        and isinstance(each.get("content"), str)
        and isinstance(each.get("id"), int)
    }
    if isinstance(vocabulary, dict):
        found |= {n: i for n in SPECIAL if isinstance(i := vocabulary.get(n), int)}
    missing = [name for name in SPECIAL if name not in found]
    if missing:
        raise ModelRefused(f"{TOKENIZER} is none of Whisper's: it lacks {', '.join(missing)}.")
    return found


def _configs(
    sizes: Sizes, ids: Mapping[str, int], given: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """config.json, generation_config.json and preprocessor_config.json, by their names."""
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    if max(end, start, ids["<|notimestamps|>"]) >= sizes.vocabulary:
        raise ModelRefused(
            f"{TOKENIZER} does not belong to these weights, which know {sizes.vocabulary} tokens."
        )
    shared = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": start,
        "suppress_tokens": _numbers(given, "suppress_ids", sizes.vocabulary),
        "begin_suppress_tokens": _numbers(given, "suppress_ids_begin", sizes.vocabulary),
    }
    config = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "d_model": sizes.width,
        "num_mel_bins": sizes.mel_bins,
        "encoder_layers": sizes.encoder_layers,
        "encoder_attention_heads": sizes.encoder_heads,
        "encoder_ffn_dim": sizes.encoder_ffn,
        "decoder_layers": sizes.decoder_layers,
        "decoder_attention_heads": sizes.decoder_heads,
        "decoder_ffn_dim": sizes.decoder_ffn,
        "num_hidden_layers": sizes.encoder_layers,
        "vocab_size": sizes.vocabulary,
        "max_source_positions": sizes.most_frames,
        "max_target_positions": sizes.most_tokens,
        "activation_function": "gelu",
        "scale_embedding": False,
        "dropout": 0.0,
        **shared,
    }
    generation = {
        "max_length": sizes.most_tokens,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "max_initial_timestamp_index": 50,
        "is_multilingual": sizes.vocabulary > ENGLISH_ONLY,
        **shared,
    }
    heads = _alignment_heads(given, sizes)
    if heads:
        generation["alignment_heads"] = heads
    if sizes.vocabulary > ENGLISH_ONLY:
        codes = _numbers(given, "lang_ids", sizes.vocabulary)
        names = {number: name for name, number in ids.items()}
        generation["lang_to_id"] = {names[code]: code for code in codes if code in names}
        generation["task_to_id"] = {
            "transcribe": ids["<|transcribe|>"],
            "translate": ids["<|translate|>"],
        }
    features = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": sizes.mel_bins,
        "sampling_rate": 16_000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": sizes.most_frames // 50,
        "n_samples": sizes.most_frames * 320,
        "nb_max_frames": sizes.most_frames * 2,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }
    return {
        "config.json": config,
        "generation_config.json": generation,
        "preprocessor_config.json": features,
    }


def _numbers(given: Mapping[str, Any], name: str, below: int) -> list[int]:
    found = given.get(name, [])
    if not isinstance(found, list) or not all(
        type(each) is int and 0 <= each < below for each in found
    ):
        raise ModelRefused(f"config.json has {name} that are no tokens of the model.")
    return found


def _alignment_heads(given: Mapping[str, Any], sizes: Sizes) -> list[list[int]]:
    """Layer and head, each pair; none where the file names none."""
    found = given.get("alignment_heads") or []
    fits = isinstance(found, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(type(each) is int for each in pair)
        and 0 <= pair[0] < sizes.decoder_layers
        and 0 <= pair[1] < sizes.decoder_heads
        for pair in found
    )
    if not fits:
        raise ModelRefused("config.json has alignment_heads that the model has not.")
    return found
