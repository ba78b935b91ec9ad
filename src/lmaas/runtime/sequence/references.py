"""What the source of an encoder-decoder answered, and the file in which a package keeps it.

`sample.safetensors` has for each case `N.source`, `N.prompt`, `N.tokens` and `N.scores`; its
metadata tell how each was decoded. Knows no frameworks.
"""

from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from lmaas.errors import InvalidInput
from lmaas.types import UNREADABLE, Record

FORMAT: Final = "lmaas"
MOST_CASES: Final = 256


class How(Record, frozen=True, kw_only=True):
    """How a case was decoded, as `calls.Decoding` says it."""

    max_tokens: int
    counted: int = 0
    beams: int = 1
    length_penalty: float = 1.0
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    forced_last: int | None = None
    stop_token_ids: tuple[int, ...] = ()


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A source, and what the source model wrote: tokens (T,) without prompt and stop token, and the
    natural-log probability of each in f32."""

    source: np.ndarray
    prompt: tuple[int, ...]
    how: How
    tokens: tuple[int, ...]
    scores: np.ndarray


def write(path: Path, references: list[Reference]) -> None:
    """Write the references of a package."""
    from safetensors.numpy import save_file

    tensors: dict[str, np.ndarray] = {}
    for number, each in enumerate(references):
        tensors[f"{number}.source"] = np.ascontiguousarray(each.source)
        tensors[f"{number}.prompt"] = np.array(each.prompt, np.int64)
        tensors[f"{number}.tokens"] = np.array(each.tokens, np.int64)
        tensors[f"{number}.scores"] = np.array(each.scores, np.float32)
    told = msgspec.json.encode([each.how for each in references]).decode()
    save_file(tensors, path, metadata={FORMAT: told})


def read(path: Path) -> list[Reference]:
    """The references of a package. Raises InvalidInput for a file that holds something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            hows = msgspec.json.decode((file.metadata() or {})[FORMAT], type=list[How])
            return [
                Reference(
                    source=file.get_tensor(f"{number}.source"),
                    prompt=tuple(file.get_tensor(f"{number}.prompt").tolist()),
                    how=how,
                    tokens=tuple(file.get_tensor(f"{number}.tokens").tolist()),
                    scores=file.get_tensor(f"{number}.scores"),
                )
                for number, how in enumerate(hows[:MOST_CASES])
            ]
    except (OSError, KeyError, SafetensorError, *UNREADABLE) as error:
        raise InvalidInput(f"{path.name} holds no references: {error}.") from None
