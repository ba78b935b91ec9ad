"""The engine `torch`: a PyTorch model as an exported program or as TorchScript."""

import importlib
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.codecs.strings import DTYPE
from lmaas.errors import InvalidInput, ModelRefused
from lmaas.runtime import cpu
from lmaas.runtime.engine import shortest_run_s
from lmaas.runtime.native import program, script
from lmaas.runtime.outputs import by_name
from lmaas.tasks.base import Tensors
from lmaas.types import Precision, Signature

TRIED_RUNS: Final = 5
SLOW_S: Final = 0.05
"""A run that takes longer is tried once: it gains from all cores."""


class TorchEngine:
    """Runs `program.json` or `script.pt` with PyTorch on the CPU."""

    def __init__(self) -> None:
        self._runner: program.Runner | None = None
        self._module: Any = None
        self._signature: Signature | None = None
        self._threads_before = 0

    def warm(self) -> None:
        """Import PyTorch."""
        importlib.import_module("torch")

    def load(self, folder: Path, signature: Signature, precision: Precision, threads: int) -> None:
        """Read and check the model. Raises ModelRefused for one that may not be run."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if (folder / script.SCRIPT).is_file():
                self._module = script.load(folder / script.SCRIPT)
            elif (folder / program.PROGRAM).is_file():
                self._runner = program.Runner(folder)
            else:
                raise ModelRefused(f"native/ has neither {script.SCRIPT} nor {program.PROGRAM}.")
        if any(spec.dtype == DTYPE for spec in (*signature.inputs, *signature.outputs)):
            raise ModelRefused("PyTorch has no tensors of texts.")
        self._signature = signature
        self._choose_threads(threads)

    def _choose_threads(self, threads: int) -> None:
        """As many as asked for; for 0 one, where a lone request is answered sooner with it."""
        import torch

        assert self._signature is not None
        most = threads or cpu.threads()
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(most)
        if threads or most == 1:
            return
        took_s: dict[int, float] = {}
        try:
            for count in (most, 1, most, 1):
                torch.set_num_threads(count)
                run_s = shortest_run_s(self.infer, self._signature, TRIED_RUNS, SLOW_S)
                took_s[count] = min(run_s, took_s.get(count, run_s))
        except InvalidInput:
            took_s = {most: 0.0}  # zeros are no input of it: nothing is known
        torch.set_num_threads(min(took_s, key=took_s.__getitem__))

    def infer(self, arrays: Tensors) -> Tensors:
        """Run the model once; outputs are copies that stay valid."""
        import torch

        signature = self._signature
        assert signature is not None
        # Copies: what a body's arrays lie in is read-only, and PyTorch may write.
        tensors = {spec.name: torch.tensor(arrays[spec.name]) for spec in signature.inputs}
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self._runner is not None:
                found = dict(zip(self._runner.program.outputs, self._runner(tensors), strict=True))
            else:
                found = self._script(tensors)
        return {spec.name: _array(found[spec.name]) for spec in signature.outputs}

    def _script(self, tensors: dict[str, Any]) -> dict[str, Any]:
        assert self._signature is not None
        try:
            outputs = self._module(*tensors.values())
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            # The last line says what happened; those before it are code.
            told = str(error).strip().rpartition("\n")[2][:300]
            raise InvalidInput(f"The model cannot run on this input: {told}") from error
        flat = list(by_name(outputs).values())
        names = [spec.name for spec in self._signature.outputs]
        if len(flat) != len(names):
            raise InvalidInput(f"The model gave {len(flat)} outputs; expected {len(names)}.")
        return dict(zip(names, flat, strict=True))

    def cancel(self) -> None:
        """A call of PyTorch runs to its end."""

    def close(self) -> None:
        """Drop the model; PyTorch has as many threads as before."""
        import torch

        self._runner = self._module = None
        if self._threads_before:
            torch.set_num_threads(self._threads_before)


def _array(tensor: Any) -> np.ndarray:
    """A tensor as numpy has it: bfloat16 becomes float32; sizes become whole numbers."""
    import torch

    if not isinstance(tensor, torch.Tensor):
        return np.asarray(tensor)
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    if tensor.is_sparse:
        tensor = tensor.to_dense()
    return np.array(tensor.resolve_conj().resolve_neg().numpy())
