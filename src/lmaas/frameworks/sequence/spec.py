"""What is fixed about an encoder-decoder, told from its description and its configs."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from lmaas.errors import ModelRefused
from lmaas.frameworks.sequence.network import Network
from lmaas.types import AudioSpec, SequenceSpec

ITEM_BYTES: Final = 4
RELATIVE_PLACES: Final = 512
"""Tokens of a model without a table of places, where its config tells no length."""
LANGUAGES: Final = (
    re.compile(r"__([a-z]{2,3})__"),  # M2M100
    re.compile(r"([a-z]{3}_[A-Z][a-z]{3})"),  # NLLB
    re.compile(r"([a-z]{2,3}_[A-Z]{2})"),  # mBART
)
"""How families spell the token of a language."""
WHISPER_LANGUAGE: Final = re.compile(r"<\|([a-z]{2,3})\|>")


def cache_bytes(network: Network) -> int:
    """What a place keeps in all layers of the decoder, in bytes: its key and its value.

    It is `cache_bytes_per_token` for tokens of the answer, and for those of a source of tokens
    `cache_bytes_per_source`; see `spec_of` for sounds and images.
    """
    decoder = network.decoder
    return 2 * decoder.layers * decoder.heads * decoder.head_width * ITEM_BYTES


def spec_of(
    network: Network,
    *,
    architecture: str,
    most_source: int,
    most_target: int,
    source_places: int = 0,
    **told: Any,
) -> SequenceSpec:
    """The record of a network. `told` are further fields of `SequenceSpec`.

    `source_places` are those that one image becomes.
    """
    each = cache_bytes(network)
    of_source = {"tokens": each, "audio": each // 2, "image": each * source_places}
    return SequenceSpec(
        architecture=architecture,
        source=network.source,
        most_source=most_source,
        most_target=most_target,
        vocabulary_size=network.vocabulary,
        cache_bytes_per_token=each,
        cache_bytes_per_source=of_source[network.source],
        **told,
    )


def languages(tokens: Mapping[str, int], generation: Mapping[str, Any]) -> dict[str, int]:
    """Codes of languages and their tokens, of a tokenizer's special tokens or what generation is
    told; empty where the model has none."""
    told = generation.get("lang_to_id")
    if isinstance(told, dict):
        found = {}
        for text, token in told.items():
            match = WHISPER_LANGUAGE.fullmatch(str(text))
            if match and isinstance(token, int):
                found[match[1]] = token
        return dict(sorted(found.items()))
    for pattern in LANGUAGES:
        found = {m[1]: token for text, token in tokens.items() if (m := pattern.fullmatch(text))}
        if found:
            return dict(sorted(found.items()))
    return {}


def audio_of(preprocessor: Mapping[str, Any], network: Network) -> AudioSpec:
    """How sound becomes the input, by preprocessor_config.json. Raises ModelRefused."""
    rate, hop = preprocessor.get("sampling_rate", 16_000), preprocessor.get("hop_length", 160)
    window, bins = preprocessor.get("n_fft", 400), preprocessor.get("feature_size", 80)
    if not all(isinstance(value, int) and value > 0 for value in (rate, hop, window, bins)):
        raise ModelRefused("preprocessor_config.json tells no valid features of sound.")
    if bins != network.mel_bins:
        raise ModelRefused(
            f"preprocessor_config.json tells {bins} bands of sound; the encoder reads "
            f"{network.mel_bins}."
        )
    assert network.frames is not None
    return AudioSpec(
        sample_rate=rate,
        features="log-mel",
        mel_bins=bins,
        window=window,
        hop=hop,
        scale="whisper",
        most_s=network.frames * hop / rate,
    )


def ids(said: Any, what: str, vocabulary: int) -> tuple[int, ...]:
    """Token ids that a config says as one or as a list; None and negative ones stand for none.

    Raises ModelRefused for one outside the vocabulary.
    """
    values: Iterable[Any] = said if isinstance(said, list | tuple) else [said]
    found = [value for value in values if isinstance(value, int) and value >= 0]
    for value in found:
        if value >= vocabulary:
            raise ModelRefused(f"The {what} {value} is outside the vocabulary of {vocabulary}.")
    return tuple(found)
