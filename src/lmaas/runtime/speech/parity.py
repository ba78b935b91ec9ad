"""Does a model that speaks say what its source says, through the pipeline that serves it?

The source's waveforms are stored with its package, made without the chance that the decoder has (it
drops a random half of what it has just said); here the same chance is taken out of the graph.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from lmaas.errors import InvalidInput, ParityFailed
from lmaas.runtime import ov
from lmaas.runtime.speech.engine import SpeechEngine
from lmaas.types import ParityCheck, ParityReport, SpeechSpec

SCALED: Final = 1e-2
"""Largest difference of a sample, of the waveform's largest: a sound is made of many steps, each
of which goes on from the one before."""
DECODER: Final = "openvino_decoder_model.xml"
CHANCE: Final = "RandomUniform"
MOST_CASES: Final = 64


class Case(NamedTuple):
    """A text, the vector of a voice (D,), and what the source says: (T,) float32 samples."""

    text: str
    voice: np.ndarray
    waveform: np.ndarray


def write_cases(cases: list[Case], path: Path) -> None:
    """Keep the cases."""
    from safetensors.numpy import save_file

    arrays = {}
    for index, case in enumerate(cases):
        arrays[f"{index}.text"] = np.frombuffer(case.text.encode(), np.uint8)
        arrays[f"{index}.voice"] = np.ascontiguousarray(case.voice, np.float32)
        arrays[f"{index}.waveform"] = np.ascontiguousarray(case.waveform, np.float32)
    save_file(arrays, path)


def read_cases(path: Path) -> list[Case]:
    """The cases that were kept. Raises InvalidInput."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
        count = len(arrays) // 3
        cases = [
            Case(
                arrays[f"{index}.text"].tobytes().decode(),
                arrays[f"{index}.voice"],
                arrays[f"{index}.waveform"],
            )
            for index in range(count)
        ]
    except (OSError, SafetensorError, KeyError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The sample cannot be read: {str(error)[:200]}.") from None
    shapes_fit = all(case.voice.ndim == case.waveform.ndim == 1 for case in cases)
    if not 0 < count <= MOST_CASES or not shapes_fit:
        raise InvalidInput("The sample must have texts, voices and waveforms.")
    return cases


def measure(folder: Path, sample: Path, spec: SpeechSpec) -> ParityReport:
    """Compare what the pipeline in `folder` says with what the source said.

    Raises InvalidInput for files that contradict each other, ParityFailed.
    """
    cases = read_cases(sample)
    notes: tuple[str, ...] = ()
    with tempfile.TemporaryDirectory() as scratch:
        certain = Path(scratch) / "certain"
        if _without_chance(folder, certain):
            notes = ("Compared without the chance in the decoder, which source and served have.",)
        else:
            certain = folder
        engine = SpeechEngine()
        engine.load(certain, spec, 0)
        checks = [_check(case, engine.speak(case.text, case.voice)) for case in cases]
        engine.close()
    report = ParityReport(
        tolerance={"f32_max_scaled_error_of_waveforms": SCALED}, checks=tuple(checks), notes=notes
    )
    wrong = [check for check in checks if not check.passed]
    if wrong:
        raise ParityFailed(
            f"The compiled model says {wrong[0].name!r} otherwise than its source: the waveforms "
            f"differ by {wrong[0].max_scaled_error:.2g} of the largest value.",
            hint=f"Allowed is {SCALED:g}.",
        )
    return report


def _check(case: Case, said: np.ndarray) -> ParityCheck:
    size = min(said.size, case.waveform.size)
    largest = max(float(np.abs(case.waveform).max(initial=0)), 1e-9)
    error = float(np.abs(said[:size] - case.waveform[:size]).max(initial=0))
    same_length = said.size == case.waveform.size and size > 0
    return ParityCheck(
        precision="f32",
        batch_size=1,
        name=case.text[:60],
        max_abs_error=error,
        max_scaled_error=error / largest,
        passed=same_length and error / largest <= SCALED,
    )


def _without_chance(folder: Path, target: Path) -> bool:
    """A copy of the pipeline whose decoder keeps all that it has said; False: it always does."""
    openvino = ov.load()
    from openvino import opset13

    try:
        model = ov.core().read_model(folder / DECODER)
    except RuntimeError as error:
        raise InvalidInput(f"{DECODER} is not an OpenVINO model: {str(error)[:200]}.") from None
    chances = [op for op in model.get_ops() if op.get_type_name() == CHANCE]
    if not chances:
        return False
    for op in chances:
        # What is drawn is kept where it is below a share: 0 always is.
        zeros = opset13.broadcast(opset13.constant(np.float32(0)), op.input_value(0))
        for reader in list(op.output(0).get_target_inputs()):
            reader.replace_source_output(zeros.output(0))
    model.validate_nodes_and_infer_types()
    shutil.copytree(folder, target)
    openvino.save_model(model, target / DECODER, compress_to_fp16=False)
    return True
