"""What libraries say while a model is converted: kept in a file, shown to nobody unless it matters.

Only what this thread writes is taken: the rest of a program goes on as it is.
"""

import logging
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from lmaas.errors import LMaaSError

LOGGERS: Final = (
    "torch", "tensorflow", "absl", "openvino", "transformers", "optimum", "nncf", "keras", "onnx",
    "skl2onnx",
)  # fmt: skip


@contextmanager
def captured(folder: Path, purpose: str) -> Iterator[None]:
    """Keep what is said in a file in `folder`, which an LMaaSError names; without one it goes."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{purpose}-{time.strftime('%Y%m%d-%H%M%S')}-{threading.get_ident():x}.log"
    with path.open("w", encoding="utf-8", errors="replace") as log:
        try:
            with _streams(log), _loggers(log), warnings.catch_warnings():
                warnings.simplefilter("always")
                yield
        except LMaaSError as error:
            log.flush()
            if path.stat().st_size:
                said = f"What the libraries said is in {path}."
                error.hint = f"{error.hint} {said}" if error.hint else said
            else:
                path.unlink()
            raise
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    path.unlink(missing_ok=True)


@contextmanager
def _streams(log: TextIO) -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Routed(stream, log) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def _loggers(log: TextIO) -> Iterator[None]:
    handler = logging.StreamHandler(log)
    kept = []
    for name in LOGGERS:
        logger = logging.getLogger(name)
        kept.append((logger, logger.handlers, logger.propagate))
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        for logger, handlers, propagate in kept:
            logger.handlers, logger.propagate = handlers, propagate


class _Routed:
    """A stream that sends what its maker's thread writes elsewhere."""

    def __init__(self, stream: Any, log: TextIO) -> None:
        self._stream = stream
        self._log = log
        self._owner = threading.get_ident()

    def write(self, text: str) -> int:
        """Write to the log, or in other threads to the stream itself."""
        if threading.get_ident() == self._owner:
            return self._log.write(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
