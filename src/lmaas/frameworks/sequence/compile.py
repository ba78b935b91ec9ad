"""Writes the two graphs of an encoder-decoder from its description and its weights."""

from pathlib import Path
from typing import Any, Final

from lmaas.frameworks.sequence.decoder import build_decoder
from lmaas.frameworks.sequence.encoder import build_encoder
from lmaas.frameworks.sequence.network import Network, Weights
from lmaas.runtime import ov

ENCODER: Final = "encoder.xml"
DECODER: Final = "decoder.xml"


def compile_network(network: Network, weights: Weights, target: Path, tower: Any = None) -> None:
    """Write `encoder.xml` and `decoder.xml`, each with its `.bin`, into the folder `target`.

    Names and shapes of `weights` are those that `network` tells; their precision on disk stays what
    it is (float32 or float16). Inputs and outputs of the graphs are told in `encoder` and
    `decoder`. `tower` is the encoder of an image as an `openvino.Model`. Raises ModelRefused naming
    a weight that is missing or has another shape.
    """
    openvino = ov.load()
    target.mkdir(parents=True, exist_ok=True)
    for name, model in (
        (ENCODER, build_encoder(network, weights, tower)),
        (DECODER, build_decoder(network, weights)),
    ):
        openvino.save_model(model, target / name, compress_to_fp16=False)
