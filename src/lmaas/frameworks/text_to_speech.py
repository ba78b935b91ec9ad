"""Models that speak: from a Hugging Face checkpoint to a package for `text-to-speech`.

SpeechT5 (Ao et al. 2022) with its HiFi-GAN vocoder (Kong et al. 2020), exported to the graphs that
OpenVINO GenAI's pipeline takes. The source's decoder drops half of what it has just said before it
goes on, while it speaks as while it learned; so does the exported one. For comparison both keep
all of it.
"""

import math
import shutil
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.errors import ModelRefused
from lmaas.frameworks import checkpoint, sentencepiece, voices
from lmaas.frameworks.causal import export_tokenizer
from lmaas.runtime import ov
from lmaas.runtime.speech import parity
from lmaas.runtime.speech.engine import (
    BUILT_IN_DIMENSIONS,
    DEFAULT_VOICE,
    MAX_LENGTH_RATIO,
    VOICES,
    read_voices,
)
from lmaas.types import Lineage, Manifest, PushOptions, Signature, SpeechSpec

ARCHITECTURE: Final = "SpeechT5ForTextToSpeech"
TASK: Final = "text-to-audio"
VOCODER: Final = "vocoder"
SPARE: Final = ("encode_positions.pe", "num_batches_tracked")
TEXTS: Final = ("a", "hello there", "it is a fine day, is it not?")
"""What source and compiled model are compared on, where the tokenizer knows the letters."""
LEAST_CHARS: Final = 8
SPECIAL: Final = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}


def build(folder: Path, options: PushOptions, target: Path) -> Manifest:
    """A package in `target` of the checkpoint in `folder`. Raises ModelRefused."""
    import torch
    import transformers

    config = checkpoint.read_config(folder)
    architecture = checkpoint.architecture_of(config)
    if architecture != ARCHITECTURE:
        raise ModelRefused(
            f"The architecture {architecture!a} does not speak here: expected {ARCHITECTURE}."
        )
    if not (folder / VOCODER / "config.json").is_file():
        raise ModelRefused(
            "The checkpoint has no vocoder: its sound would be a spectrogram.",
            hint="Put a SpeechT5HifiGan (config.json, model.safetensors) into its folder "
            f"{VOCODER}/, such as microsoft/speecht5_hifigan.",
        )
    model = checkpoint.load_model(
        transformers.SpeechT5ForTextToSpeech, folder, torch.float32, spare=SPARE
    )
    vocoder = checkpoint.load_model(transformers.SpeechT5HifiGan, folder / VOCODER, torch.float32)
    if vocoder.config.model_in_dim != model.config.num_mel_bins:
        raise ModelRefused(
            f"The vocoder takes {vocoder.config.model_in_dim} mel bins; the model gives "
            f"{model.config.num_mel_bins}."
        )
    tokenizer = _tokenizer(folder, model.config.vocab_size)
    vectors = _voices(folder, model.config.speaker_embedding_dim)
    spec = SpeechSpec(
        architecture="speecht5",
        sample_rate=int(vocoder.config.sampling_rate),
        voices=voices.in_order(list(vectors) or [DEFAULT_VOICE]),
        most_chars=_most_chars(model.config),
        most_s_per_token=MAX_LENGTH_RATIO
        * math.prod(vocoder.config.upsample_rates)
        / vocoder.config.sampling_rate,
    )
    cases = _references(model, vocoder, tokenizer, vectors, spec)
    compiled = target / "compiled"
    _export(model, folder / VOCODER, compiled)
    export_tokenizer(_wrapped(tokenizer), compiled)
    if vectors:
        shutil.copyfile(folder / VOICES, compiled / VOICES)
    parity.write_cases(cases, target / "sample.safetensors")
    manifest = Manifest(
        name=options.name,
        task="text-to-speech",
        framework="pytorch",
        signature=Signature(inputs=(), outputs=(), batch=False, speech=spec),
        num_parameters=sum(each.numel() for net in (model, vocoder) for each in net.parameters()),
        framework_version=str(torch.__version__),
        engine="speech",
        lineage=Lineage(origin="push"),
        card=options.card,
    )
    (target / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


def _most_chars(config: Any) -> int:
    """The longest text that can neither pass the encoder's positions nor the decoder's.

    A blank before it and `</s>` after it count. Raises ModelRefused.
    """
    frames = int(config.max_speech_positions * config.reduction_factor / MAX_LENGTH_RATIO)
    most = min(int(config.max_text_positions), frames) - 2
    if most < LEAST_CHARS:
        raise ModelRefused(f"The model takes {most} characters at once; expected {LEAST_CHARS}.")
    return most


def _tokenizer(folder: Path, vocabulary_size: int) -> Any:
    """The checkpoint's `tokenizers.Tokenizer`. Raises ModelRefused."""
    from tokenizers import Tokenizer

    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    elif (folder / "spm_char.model").is_file():
        tokenizer = sentencepiece.read_tokenizer(folder / "spm_char.model")
    else:
        raise ModelRefused("The checkpoint has no tokenizer: expected spm_char.model.")
    if tokenizer.get_vocab_size() > vocabulary_size:
        raise ModelRefused(
            f"The tokenizer has {tokenizer.get_vocab_size()} tokens; the model {vocabulary_size}."
        )
    return tokenizer


def _wrapped(tokenizer: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    known = {
        role: text for role, text in SPECIAL.items() if tokenizer.token_to_id(text) is not None
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **known)


def _voices(folder: Path, dimensions: int) -> dict[str, np.ndarray]:
    """The checkpoint's voices; none where the pipeline's own has as many dimensions.

    Raises ModelRefused.
    """
    vectors = read_voices(folder / VOICES) if (folder / VOICES).is_file() else {}
    for name, vector in vectors.items():
        if vector.size != dimensions:
            raise ModelRefused(
                f"The voice {name} has {vector.size} numbers; the model takes {dimensions}."
            )
    if not vectors and dimensions != BUILT_IN_DIMENSIONS:
        raise ModelRefused(
            "The checkpoint has no voice.",
            hint=f"Put vectors of {dimensions} floats into its folder {voices.FOLDER}/, each as "
            "NAME.npy or NAME.safetensors.",
        )
    return vectors


def _references(
    model: Any, vocoder: Any, tokenizer: Any, vectors: dict[str, np.ndarray], spec: SpeechSpec
) -> list[parity.Case]:
    """What the source says. Its decoder keeps all of what it has said."""
    import torch

    unknown = tokenizer.token_to_id(SPECIAL["unk_token"])
    letters = [text for text in tokenizer.get_vocab() if len(text) == 1 and text.isalpha()]
    texts = [text for text in TEXTS if unknown not in tokenizer.encode(text).ids]
    texts = texts or ["".join(sorted(letters)[:LEAST_CHARS])]
    given = list(vectors.values())
    if not given:
        drawn = np.random.default_rng(0).standard_normal(BUILT_IN_DIMENSIONS)
        given = [drawn.astype(np.float32)]
    prenet = model.speecht5.decoder.prenet
    prenet._consistent_dropout = lambda kept, share: kept / (1 - share)
    cases = []
    try:
        for index, text in enumerate(each[: spec.most_chars].rstrip() for each in texts):
            voice = given[index % len(given)]
            ids = torch.tensor([tokenizer.encode(text).ids])
            with torch.no_grad():
                waveform = model.generate_speech(
                    ids,
                    torch.from_numpy(voice)[None],
                    vocoder=vocoder,
                    maxlenratio=MAX_LENGTH_RATIO,
                )
            cases.append(parity.Case(text, voice, waveform.numpy().reshape(-1)))
    finally:
        del prenet._consistent_dropout
    return cases


def _export(model: Any, vocoder: Path, folder: Path) -> None:
    """Write the pipeline's graphs. Raises ModelRefused."""
    ov.load()
    from optimum.exporters.openvino.convert import export_from_model

    try:
        export_from_model(
            model, folder, task=TASK, stateful=True, model_kwargs={"vocoder": str(vocoder)}
        )
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - the exporter fails in many ways
        told = checkpoint.short(error)
        raise ModelRefused(f"{ARCHITECTURE} cannot be compiled: {told}.") from None
