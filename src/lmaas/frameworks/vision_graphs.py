"""The compiled parts of a model that takes images, as the engine openvino-genai serves them.

The exporter writes a language model, a table of tokens and a vision tower. The first two get the
keys of `runtime.language.embedded`; the tower gets a name of its own, because the pipeline would
load a second copy of it, and a graph that is never run stands in its place.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.errors import ModelRefused
from lmaas.runtime import ov
from lmaas.runtime.language.embedded import ID_BYTES, KEY_NUMBERS, STRIDE, TEXT_ROWS
from lmaas.runtime.language.pictures import TOWER

LANGUAGE: Final = "openvino_language_model.xml"
VISION: Final = "openvino_vision_embeddings_model.xml"
ROWS: Final = "inputs_embeds"


def finish(folder: Path) -> None:
    """Change what the exporter wrote in `folder`. Raises ModelRefused for graphs of other shape."""
    for name in (LANGUAGE, TEXT_ROWS, VISION):
        if not (folder / name).is_file():
            raise ModelRefused(f"OpenVINO's exporter wrote no {name} for this architecture.")
    for suffix in (".xml", ".bin"):
        (folder / VISION).with_suffix(suffix).rename((folder / TOWER).with_suffix(suffix))
    openvino = ov.load()
    for name, made in (
        (LANGUAGE, _without_keys(folder / LANGUAGE)),
        (TEXT_ROWS, _with_keys(folder / TEXT_ROWS)),
        (VISION, _stand_in()),
    ):
        # Beside it first: a graph that was read still reads its weights from the file.
        fresh = folder / f"new_{name}"
        openvino.save_model(made, fresh, compress_to_fp16=False)
        del made
        for suffix in (".xml", ".bin"):
            fresh.with_suffix(suffix).replace((folder / name).with_suffix(suffix))


def _without_keys(path: Path) -> Any:
    """The language model, which drops the keys of its rows."""
    openvino = ov.load()
    from openvino import opset13 as ops

    model = ov.core().read_model(path)
    given = next((port for port in model.inputs if ROWS in port.get_names()), None)
    shape = None if given is None else given.get_partial_shape()
    if given is None or shape is None or len(shape) != 3 or shape[2].is_dynamic:
        raise ModelRefused(f"The compiled language model takes no rows of tokens ({ROWS}).")
    width = shape[2].get_length()
    keyed = ops.parameter(
        openvino.PartialShape([-1, -1, KEY_NUMBERS + width]), openvino.Type.f32, name=ROWS
    )
    keyed.output(0).set_names({ROWS})
    begin, end, step, axis = (
        np.array([number], np.int64) for number in (KEY_NUMBERS, KEY_NUMBERS + width, 1, 2)
    )
    own = ops.slice(keyed, begin, end, step, axis)
    parameter = given.get_node()
    for user in list(parameter.output(0).get_target_inputs()):
        user.replace_source_output(own.output(0))
    model.remove_parameter(parameter)
    model.add_parameters([keyed])
    model.validate_nodes_and_infer_types()
    return model


def _with_keys(path: Path) -> Any:
    """The table of tokens, whose rows begin with the token's id."""
    openvino = ov.load()
    from openvino import opset13 as ops

    model = ov.core().read_model(path)
    (ids,), (result,) = model.get_parameters(), model.get_results()
    rows = result.input(0).get_source_output()
    if len(rows.get_partial_shape()) != 3:
        raise ModelRefused("The compiled table of tokens gives no row for each token.")
    whole_ids = ops.unsqueeze(ops.convert(ids, "i32"), np.array([2], np.int64))
    none, nothing = np.zeros(3, np.int64), np.array(0, np.float32)
    parts = []
    for place in range(ID_BYTES):
        above = ops.divide(whole_ids, np.array(256**place, np.int32))
        byte = ops.convert(ops.mod(above, np.array(256, np.int32)), "f32")
        last = KEY_NUMBERS - STRIDE * place if place == ID_BYTES - 1 else STRIDE
        after = np.array([0, 0, last - 1], np.int64)
        parts.append(ops.pad(byte, none, after, "constant", nothing))
    whole = ops.concat([*parts, ops.convert(rows, "f32")], 2)
    whole.output(0).set_names({ROWS})
    return openvino.Model([ops.result(whole)], [ids], "tokens")


def _stand_in() -> Any:
    """What the pipeline loads for a vision tower, and never runs."""
    openvino = ov.load()
    from openvino import opset13 as ops

    pixels = ops.parameter(
        openvino.PartialShape([-1, 3, -1, -1]), openvino.Type.f32, name="pixel_values"
    )
    pixels.output(0).set_names({"pixel_values"})
    rows = ops.reduce_mean(pixels, np.array([1], np.int64))
    rows.output(0).set_names({"last_hidden_state"})
    return openvino.Model([ops.result(rows)], [pixels], "none")
