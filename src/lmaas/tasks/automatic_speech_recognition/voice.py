"""Where in a sound somebody speaks: a likelihood for each frame, and spans of speech.

By Silero's network where the package `silero-vad` is installed, by loudness otherwise.
Knows no model that transcribes.
"""

import threading
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from lmaas.transcription_types import Detection

SAMPLE_RATE: Final = 16_000
FRAME: Final = 512
"""Samples of a frame, 32 ms; the network was trained on frames of this length."""
CONTEXT: Final = 64
"""Samples before a frame that the network sees with it."""
FRAME_S: Final = FRAME / SAMPLE_RATE
NETWORK: Final = "silero_vad_openvino_16k.onnx"
STATE: Final = 128
STREAMS: Final = 64
"""A long sound is cut into so many stretches that the network reads side by side."""
WARM_FRAMES: Final = 32
"""How far before its stretch it begins to read, so that its state is settled."""
NOTHING_DB: Final = -60.0
"""Below this, of full scale, there is nothing to be heard."""
RANGE_DB: Final = 30.0
"""Speech is at most so much softer than the loudest speech of a recording."""
ABOVE_NOISE_DB: Final = 6.0
SLOPE_DB: Final = 3.0
HYSTERESIS: Final = 0.15
"""Speech goes on until the likelihood is so far below the threshold."""
LEAST_SPEECH_S: Final = 0.09


class Span(NamedTuple):
    """A stretch of a sound, in seconds from its beginning."""

    start: float
    end: float


def likelihoods(samples: np.ndarray) -> np.ndarray:
    """How likely it is that somebody speaks, for each frame of a sound at 16 kHz, 0 to 1."""
    loud = loudness(samples)
    if loud.max(initial=NOTHING_DB) <= NOTHING_DB:
        return np.zeros(len(loud), np.float32)
    network = _network()
    if network is None:
        return by_loudness(loud)
    found: np.ndarray = np.where(loud > NOTHING_DB, network(samples), 0).astype(np.float32)
    return found


def loudness(samples: np.ndarray) -> np.ndarray:
    """The root mean square of each frame in dB of full scale; the last frame may be shorter."""
    whole = len(samples) // FRAME * FRAME
    power = np.einsum("ij,ij->i", *[samples[:whole].reshape(-1, FRAME)] * 2) / FRAME
    if whole < len(samples):
        rest = samples[whole:]
        power = np.append(power, np.dot(rest, rest) / len(rest))
    found: np.ndarray = (10 * np.log10(np.maximum(power, 1e-12))).astype(np.float32)
    return found


def by_loudness(loud: np.ndarray) -> np.ndarray:
    """Likelihoods from loudness alone: speech stands out of the noise of the recording.

    Where nothing stands out, all that is not silent may be speech.
    """
    heard = loud[loud > NOTHING_DB]
    noise, top = np.percentile(loud, 10), np.percentile(heard, 95)
    middle = min(max(noise + ABOVE_NOISE_DB, top - RANGE_DB), top - ABOVE_NOISE_DB)
    middle = max(middle, NOTHING_DB)
    if top - noise < 2 * ABOVE_NOISE_DB:
        return (loud > NOTHING_DB).astype(np.float32)
    likely: np.ndarray = (1 / (1 + np.exp((middle - loud) / SLOPE_DB))).astype(np.float32)
    return likely


def spans(likely: np.ndarray, detection: Detection, duration_s: float) -> list[Span]:
    """Where somebody speaks, with `padding_s` around, in order and apart from each other."""
    threshold, release = detection.threshold, max(detection.threshold - HYSTERESIS, 0.01)
    silence = max(1, round(detection.silence_s / FRAME_S))
    found: list[tuple[int, int]] = []
    begin, quiet = -1, 0
    for frame, value in enumerate(likely.tolist()):
        if begin < 0:
            if value >= threshold and value > 0:
                begin, quiet = frame, 0
        elif value >= release:
            quiet = 0
        else:
            quiet += 1
            if quiet >= silence:
                found.append((begin, frame - quiet + 1))
                begin = -1
    if begin >= 0:
        found.append((begin, len(likely) - quiet))
    joined: list[Span] = []
    for first, after in found:
        if (after - first) * FRAME_S < LEAST_SPEECH_S:
            continue
        start = max(0.0, first * FRAME_S - detection.padding_s)
        end = min(duration_s, after * FRAME_S + detection.padding_s)
        if joined and start <= joined[-1].end:
            joined[-1] = Span(joined[-1].start, end)
        else:
            joined.append(Span(start, end))
    return joined


@cache
def _network() -> "_Silero | None":
    """The network, if its package and OpenVINO are here."""
    found = find_spec("silero_vad")
    if found is None or not found.submodule_search_locations or find_spec("openvino") is None:
        return None
    path = Path(next(iter(found.submodule_search_locations))) / "data" / NETWORK
    return _Silero(path) if path.is_file() else None


class _Silero:
    """Silero's voice detector (MIT licence) in OpenVINO: frames in, likelihoods out."""

    def __init__(self, path: Path) -> None:
        import openvino as ov

        core = ov.Core()
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        model = core.read_model(str(path))
        model.reshape({"input": [-1, CONTEXT + FRAME], "state": [2, -1, STATE]})
        self._model: Any = core.compile_model(model, "CPU", options)
        self._lock = threading.Lock()

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        count = -(-len(samples) // FRAME)
        rows = min(STREAMS, max(1, count // (2 * WARM_FRAMES)))
        length = -(-count // rows)
        padded = np.zeros(WARM_FRAMES * FRAME + CONTEXT + rows * length * FRAME, np.float32)
        before = len(padded) - rows * length * FRAME
        padded[before : before + len(samples)] = samples
        # Row r reads frames r * length - WARM_FRAMES to (r + 1) * length.
        starts = before + (np.arange(rows) * length - WARM_FRAMES) * FRAME - CONTEXT
        found = np.zeros((rows, length), np.float32)
        state = np.zeros((2, rows, STATE), np.float32)
        offsets = np.arange(CONTEXT + FRAME)
        with self._lock:
            request = self._model.create_infer_request()
            for step in range(WARM_FRAMES + length):
                places = starts[:, None] + step * FRAME + offsets
                frames = np.ascontiguousarray(padded[places])
                result = request.infer([frames, state])
                told, state = result[0], np.array(result[1])
                if step >= WARM_FRAMES:
                    found[:, step - WARM_FRAMES] = told.reshape(rows)
        return found.reshape(-1)[:count]
