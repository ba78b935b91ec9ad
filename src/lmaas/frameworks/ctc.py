"""Models that hear and spell: from a Hugging Face CTC checkpoint to a package for its task.

wav2vec 2.0, HuBERT, WavLM and their kin (`…ForCTC`) read samples. Where a checkpoint's first layers
normalise over the whole sound (`feat_extract_norm` "group"), what is filled up would change the
answer, so sounds of other lengths never run together; else the mask that hides it is tried on the
source.
"""

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas import tasks
from lmaas.errors import InvalidInput, ModelRefused
from lmaas.frameworks import checkpoint
from lmaas.frameworks.refuse_checkpoint import MAX_CONFIG_BYTES, read_json
from lmaas.runtime import cases, ov
from lmaas.tasks import Tensors
from lmaas.tasks.automatic_speech_recognition.alphabet import Alphabet, Convolution
from lmaas.tasks.automatic_speech_recognition.ctc import MASK
from lmaas.types import (
    BATCH,
    AudioSpec,
    Lineage,
    Manifest,
    PushOptions,
    Signature,
    TensorSpec,
)

VALUES: Final = "input_values"
LOGITS: Final = "logits"
SPARE: Final = ("masked_spec_embed", "quantizer", "project_hid", "project_q")
"""Tensors of pretraining: they may be missing or left over."""
SECONDS: Final = (0.71, 1.33, 2.05)
"""Lengths of the sounds on which source and compiled model are compared."""
VOCABULARY: Final = "vocab.json"
PREPROCESSOR: Final = "preprocessor_config.json"
MASKED: Final = -1e9
CLOSE: Final = 1e-3


def build(folder: Path, options: PushOptions, target: Path) -> Manifest:
    """A package in `target` of the checkpoint in `folder`. Raises ModelRefused."""
    import torch
    import transformers

    config = checkpoint.read_config(folder)
    model = checkpoint.load_model(transformers.AutoModelForCTC, folder, torch.float32, spare=SPARE)
    if getattr(model.config, "add_adapter", False):
        raise ModelRefused("Adapters after the encoder (add_adapter) are not served.")
    audio = _audio(folder)
    alphabet = _alphabet(folder, model.config)
    sounds = _sounds(audio)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' WavLM warns of its own masks
        pads = config.get("feat_extract_norm") != "group" and _mask_hides(model, sounds)
        alphabet = msgspec.structs.replace(alphabet, pads=pads)
        compared = list(_cases(model, sounds, alphabet))
    graph = _converted(model, compared[-1])
    signature = tasks.get("automatic-speech-recognition").check_signature(
        _signature(alphabet, audio, pads=pads)
    )
    for ports, specs in ((graph.inputs, signature.inputs), (graph.outputs, signature.outputs)):
        if len(ports) != len(specs):
            raise InvalidInput("The model cannot be compiled: an input does not reach its output.")
        for port, spec in zip(ports, specs, strict=True):
            port.get_tensor().set_names({spec.name})
    graph.reshape({port: [-1, -1] for port in graph.inputs})
    compiled = target / "compiled"
    compiled.mkdir(parents=True)
    ov.load().save_model(graph, compiled / "model.xml", compress_to_fp16=False)
    alphabet.save(compiled)
    shutil.copyfile(folder / "config.json", compiled / "config.json")
    notes = () if pads else ("Sounds of other lengths never run together: no mask hides filling.",)
    cases.write(target / cases.SAMPLE_FILE, compared, cases.About(notes=notes))
    manifest = Manifest(
        name=options.name,
        task="automatic-speech-recognition",
        framework="pytorch",
        signature=signature,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        framework_version=str(torch.__version__),
        lineage=Lineage(origin="push"),
        card=options.card,
    )
    (target / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


def _audio(folder: Path) -> AudioSpec:
    """How sound is read, as the checkpoint's feature extractor says it. Raises ModelRefused."""
    path = folder / PREPROCESSOR
    if not path.is_file():
        raise ModelRefused(f"The checkpoint has no {PREPROCESSOR}, so its sample rate is unknown.")
    told = read_json(path, MAX_CONFIG_BYTES)
    rate, kind = told.get("sampling_rate"), told.get("feature_extractor_type")
    if kind not in (None, "Wav2Vec2FeatureExtractor"):
        raise ModelRefused(f"{PREPROCESSOR} names {kind!a}; served are models that read samples.")
    if type(rate) is not int or not 1000 <= rate <= 384_000 or told.get("feature_size", 1) != 1:
        raise ModelRefused(
            f"{PREPROCESSOR} must have a sampling_rate and the feature_size 1; it has {rate!a} and "
            f"{told.get('feature_size')!a}."
        )
    normalize = told.get("do_normalize", True)
    return AudioSpec(sample_rate=rate, features="waveform", normalize=bool(normalize))


def _alphabet(folder: Path, config: Any) -> Alphabet:
    """What the outputs stand for. Raises ModelRefused."""
    path = folder / VOCABULARY
    if not path.is_file():
        raise ModelRefused(f"The checkpoint has no {VOCABULARY}, so its letters are unknown.")
    told = read_json(path, MAX_CONFIG_BYTES)
    if any(isinstance(value, dict) for value in told.values()):
        raise ModelRefused(
            f"{VOCABULARY} has several languages; served are checkpoints of one alphabet.",
            hint="Save the checkpoint with one language's adapter and its own vocab.json.",
        )
    size = int(config.vocab_size)
    numbers = {n for n in told.values() if type(n) is int}
    if len(numbers) != len(told) or not numbers <= set(range(size)):
        raise ModelRefused(f"{VOCABULARY} must give each token a number of its own below {size}.")
    by_number = {number: token for token, number in told.items()}
    special = _special(folder)
    blank = told.get(special.get("pad_token", "<pad>"), config.pad_token_id)
    if type(blank) is not int or not 0 <= blank < size:
        raise ModelRefused(f"The blank (pad_token) has no number below {size}: {blank!a}.")
    delimiter = told.get(special.get("word_delimiter_token", "|"))
    kinds = ("bos_token", "eos_token", "unk_token")
    defaults = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    named = {told.get(special.get(kind, defaults[kind])) for kind in kinds}
    silent = {n for n in named if type(n) is int and n not in (blank, delimiter)}
    silent |= set(range(size)) - numbers - {blank}
    tokens = [by_number.get(number, "") for number in range(size)]
    return Alphabet(
        tokens=tuple(tokens),
        blank=blank,
        delimiter=delimiter,
        silent=tuple(sorted(silent)),
        convolutions=tuple(
            Convolution(kernel=int(kernel), stride=int(stride))
            for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True)
        ),
    )


def _special(folder: Path) -> dict[str, str]:
    """The tokenizer's special tokens by their kind."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        for kind, value in read_json(folder / name, MAX_CONFIG_BYTES).items():
            token = value.get("content") if isinstance(value, dict) else value
            if kind.endswith("_token") and isinstance(token, str):
                found[kind] = token
    return found


def _sounds(audio: AudioSpec) -> list[np.ndarray]:
    """Noise and tones of different lengths, as the model reads them."""
    from lmaas.tasks.automatic_speech_recognition.features import waveform

    random = np.random.default_rng(0)
    made = []
    for number, seconds in enumerate(SECONDS, 1):
        at = np.arange(int(seconds * audio.sample_rate)) / audio.sample_rate
        tone = np.sin(2 * np.pi * 180 * number * at) * np.sin(2 * np.pi * 3 * at)
        sound = 0.3 * tone + 0.02 * random.standard_normal(len(at))
        made.append(waveform(sound.astype(np.float32), audio))
    return made


def _alone(model: Any, sounds: np.ndarray) -> np.ndarray:
    """The source's own logits for sounds (N, T) of one length."""
    import torch

    with torch.inference_mode():
        logits: np.ndarray = model(torch.from_numpy(sounds)).logits.numpy()
    return logits


def _filled(sounds: list[np.ndarray]) -> Tensors:
    longest = max(map(len, sounds))
    values = np.zeros((len(sounds), longest), np.float32)
    mask = np.zeros((len(sounds), longest), np.int64)
    for place, sound in enumerate(sounds):
        values[place, : len(sound)] = sound
        mask[place, : len(sound)] = 1
    return {VALUES: values, MASK: mask}


def _mask_hides(model: Any, sounds: list[np.ndarray]) -> bool:
    """Whether filled-up sounds with a mask have the logits that they have alone."""
    import torch

    together = _filled(sounds)
    values, mask = (torch.from_numpy(array) for array in together.values())
    with torch.inference_mode():
        rows = model(values, attention_mask=mask).logits.numpy()
    for row, sound in zip(rows, sounds, strict=True):
        own = _alone(model, sound[None])[0]
        if not np.allclose(row[: len(own)], own, atol=CLOSE):
            return False
    return True


def _cases(model: Any, sounds: list[np.ndarray], alphabet: Alphabet) -> Iterator[cases.Case]:
    """Each sound alone, two of one length, and, where a mask hides it, all filled up."""
    for sound in sounds:
        yield _case(f"{len(sound)} samples", model, [sound], alphabet)
    yield _case("two of one length", model, [sounds[2], sounds[2][::-1].copy()], alphabet)
    if alphabet.pads:
        yield _case("filled up", model, sounds, alphabet)


def _case(name: str, model: Any, sounds: list[np.ndarray], alphabet: Alphabet) -> cases.Case:
    inputs = _filled(sounds)
    steps = alphabet.steps(inputs[VALUES].shape[1])
    rows = []
    for sound in sounds:
        own = _alone(model, sound[None])[0]
        if len(own) != alphabet.steps(len(sound)):
            raise ModelRefused(
                f"The model makes {len(own)} steps of {len(sound)} samples; its convolutions tell "
                f"{alphabet.steps(len(sound))}."
            )
        rows.append(np.pad(own, ((0, steps - len(own)), (0, 0))))
    if not alphabet.pads:
        del inputs[MASK]
    return cases.Case(name=name, inputs=inputs, outputs={LOGITS: np.stack(rows)})


def _converted(model: Any, case: cases.Case) -> Any:
    """The network as an `openvino.Model`; what is filled up has logits of zero.

    A network is called as a whole, or, where what makes its mask does not trace, part by part.
    Which way gives the source's answers is seen in them. Raises InvalidInput where none does.
    """
    import torch

    class Reader(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """Samples, and a mask where one is taken, in; logits (N, T', letters) out."""

        def __init__(self, call: Callable[[Any, Any, Any, Any], Any]) -> None:
            super().__init__()
            self.model = model
            self.call = call

        def forward(self, values: Any, mask: Any = None) -> Any:
            """Logits, zero where sounds are filled up."""
            if mask is None:
                return self.call(self.model, values, None, None)
            length = self.model._get_feat_extract_output_lengths(values.shape[-1])
            counted = self.model._get_feat_extract_output_lengths(mask.sum(-1))
            steps = torch.arange(length)[None, :] < counted[:, None]
            logits = self.call(self.model, values, mask, steps)
            return logits * steps[:, :, None].to(logits.dtype)

    assert case.outputs is not None
    example = tuple(torch.from_numpy(array) for array in case.inputs.values())
    wanted, told = case.outputs[LOGITS], "the source's answers are not reached"
    for call in (_whole, _in_parts):
        reader = Reader(call).eval()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of itself and of every Python branch
            try:
                if np.allclose(reader(*example).numpy(), wanted, atol=CLOSE):
                    return ov.load().convert_model(reader, example_input=example)
            except Exception as error:  # noqa: BLE001 - OpenVINO wraps whatever tracing raised
                told = " ".join(str(error).split())[:300]
    raise InvalidInput(f"The model cannot be compiled: {told}.")


def _whole(model: Any, values: Any, mask: Any, steps: Any) -> Any:
    return model(values, attention_mask=mask).logits


def _in_parts(model: Any, values: Any, mask: Any, steps: Any) -> Any:
    """What wav2vec 2.0 and HuBERT do, with a mask that is ready made."""
    base = model.base_model
    hidden = base.feature_projection(base.feature_extractor(values).transpose(1, 2))
    hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    hides = None
    if steps is not None:
        seen = steps[:, :, None].to(hidden.dtype)
        hidden = hidden * seen
        hides = (1.0 - seen.transpose(1, 2)[:, None]) * MASKED
    encoder = base.encoder
    hidden = hidden + encoder.pos_conv_embed(hidden)
    # Normalised before each part, the last normalisation comes after all of them.
    after = bool(model.config.do_stable_layer_norm)
    hidden = hidden if after else encoder.layer_norm(hidden)
    for layer in encoder.layers:
        hidden = layer(hidden, attention_mask=hides)[0]
    return model.lm_head(encoder.layer_norm(hidden) if after else hidden)


def _signature(alphabet: Alphabet, audio: AudioSpec, *, pads: bool) -> Signature:
    time = ("", "time")
    inputs = [TensorSpec(name=VALUES, dtype="float32", shape=(BATCH, BATCH), axes=time)]
    if pads:
        inputs.append(TensorSpec(name=MASK, dtype="int64", shape=(BATCH, BATCH), axes=time))
    letters = len(alphabet.tokens)
    return Signature(
        inputs=tuple(inputs),
        outputs=(TensorSpec(name=LOGITS, dtype="float32", shape=(BATCH, BATCH, letters)),),
        axes={"time": (alphabet.least, None)},
        audio=audio,
    )
