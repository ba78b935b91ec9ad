"""How PyTorch takes a training step, on the CPU or, where there is one, a CUDA device.

Owns the optimizer, clipping, autocast, masks, and torch's seed in the process. It knows no
task, no schedule and no files but its own.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmaas.errors import InvalidInput
from lmaas.frameworks.base import by_name, takes_keywords
from lmaas.recipe import Recipe
from lmaas.runtime import cpu
from lmaas.tasks import Tensors
from lmaas.training.base import Diverged, Feed, Group, Loss
from lmaas.training.losses import summed
from lmaas.training.pytorch import optimizers
from lmaas.training.pytorch.flops import count
from lmaas.training.rows import aligned

WEIGHTS_FILE = "weights.safetensors"
STATE_FILE = "optimizer.safetensors"
FLOPS_A_THREAD = 1e8
"""A thread is worth its company from about so many operations of a batch's forward pass on."""
KERNELS = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
"""Modules whose `weight` has its outputs on axis 0 and what is summed up on axis 1."""


class PyTorchLearner:
    """A `torch.nn.Module` in training. Frozen parameters stay as they were built."""

    def __init__(self, model: Any, loss: Loss, recipe: Recipe, group: Group) -> None:
        self._device = torch.device("cpu")
        if torch.cuda.is_available():
            torch.cuda.init()
            self._device = torch.device("cuda", group.rank % torch.cuda.device_count())
        on_cuda = self._device.type == "cuda"
        self._generator = (
            torch.cuda.default_generators[self._device.index]
            if on_cuda
            else torch.default_generator
        )
        self._seed = recipe.seed
        self._steps = 0
        self.model = model.to(self._device)
        self._loss = loss
        self._group = group
        self._clip_norm = recipe.clip_norm
        self._bf16 = recipe.precision == "bf16"
        self._trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._parameters = list(self._trained.values())
        if not self._parameters:
            raise InvalidInput("The model has no weights to train.", param="model")
        self._decay = recipe.optimizer.weight_decay
        self._optimizer = optimizers.make(recipe.optimizer, self._parameters)
        self._decays = isinstance(self._optimizer, optimizers.AdamW)
        self._masks: list[Any] = []
        self._masked: list[Any] = []
        self._keywords: dict[tuple[str, ...], bool] = {}
        self._training: bool | None = None
        self._flat: Any = None
        self._weight: float | None = None
        self._part: Any = None  # 1 / weight, as the gradient of the summed loss.
        self._threads = 0  # Not chosen yet.

    def step(self, feeds: Sequence[Feed], *, learning_rate: float, weight: float) -> float:
        """See `base.Learner.step`."""
        if not self._threads:
            self._take_threads(self._worth(feeds))
        self._mode(training=True)
        self._draw_anew()
        for parameter in self._parameters:
            parameter.grad = None
        total = 0.0
        if weight != self._weight:
            self._weight, self._part = weight, torch.tensor(1 / weight, device=self._device)
        for feed in feeds:
            _, loss = self._run(feed)
            loss.backward(self._part)
            total += loss.item()
        if self._group.workers > 1:
            total = self._share(total)
        if not math.isfinite(total):
            raise Diverged(f"The loss is {total}.")
        if self._clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
            if not math.isfinite(norm.item()):
                raise Diverged(f"The norm of the gradients is {norm.item()}.")
        with torch.no_grad():
            if self._decay and not self._decays:
                torch._foreach_mul_(self._parameters, 1 - learning_rate * self._decay)
            self._optimizer.step(learning_rate)
            if self._masks:
                torch._foreach_mul_(self._masked, self._masks)
        self._steps += 1
        return total

    def evaluate(self, feed: Feed) -> tuple[float, Tensors]:
        """See `base.Learner.evaluate`."""
        self._mode(training=False)
        with torch.no_grad():
            outputs, loss = self._run(feed)
        rows = {name: tensor.float().cpu().numpy() for name, tensor in outputs.items()}
        return loss.item(), rows

    def weights(self) -> dict[str, np.ndarray]:
        """Parameters, shared ones once, and the buffers that the model saves. bf16 as float32."""
        return {name: _array(tensor) for name, tensor in self._tensors().items()}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """See `base.Learner.set_weights`."""
        tensors = self._tensors()
        if unknown := set(weights) - set(tensors):
            raise InvalidInput(f"The model has no weights {sorted(unknown)[:5]}.", param="model")
        with torch.no_grad():
            for name, array in weights.items():
                tensors[name].copy_(_tensor(array))

    def prunable(self) -> list[str]:
        """Weights of dense layers and convolutions that are trained."""
        return [
            f"{name}.weight" if name else "weight"
            for name, module in self.model.named_modules()
            if isinstance(module, KERNELS)
            and (f"{name}.weight" if name else "weight") in self._trained
        ]

    def input_axis(self, name: str) -> int:
        """Axis 1: outputs come first."""
        return 1

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None:
        """See `base.Learner.set_masks`."""
        self._masked = [self._trained[name] for name in masks]
        self._masks = [
            _tensor(mask).to(self._device, weight.dtype)
            for weight, mask in zip(self._masked, masks.values(), strict=True)
        ]
        with torch.no_grad():
            torch._foreach_mul_(self._masked, self._masks)

    def save(self, folder: Path) -> None:
        """Two files: what is trained and the buffers; the optimizer's and the count of steps."""
        from safetensors.torch import save_file

        save_file(_plain(self._changing()), str(folder / WEIGHTS_FILE))
        state = {
            f"{field}/{name}": value
            for name, parameter in self._trained.items()
            for field, value in self._optimizer.state.get(parameter, {}).items()
        }
        state["steps"] = torch.tensor(self._steps)
        state["threads"] = torch.tensor(self._threads)
        save_file(_plain(state), str(folder / STATE_FILE))

    def load(self, folder: Path) -> None:
        """See `base.Learner.load`. Raises InvalidInput for another model's weights."""
        from safetensors.torch import load_file

        weights, mine = load_file(str(folder / WEIGHTS_FILE)), self._changing()
        if weights.keys() != mine.keys():
            raise InvalidInput(
                "The checkpoint is another model's; they differ in "
                f"{sorted(weights.keys() ^ mine.keys())[:5]}.",
                hint="Start the run anew.",
            )
        with torch.no_grad():
            for name, tensor in mine.items():
                tensor.copy_(weights[name])
        state = load_file(str(folder / STATE_FILE))
        self._steps = int(state.pop("steps"))
        self._take_threads(int(state.pop("threads")))
        self._optimizer.state.clear()
        for key, tensor in state.items():
            field, name = key.split("/", 1)
            # The counts of steps are on the device too.
            kept = self._optimizer.state.setdefault(self._trained[name], {})
            kept[field] = self._to(tensor.clone())

    def _worth(self, feeds: Sequence[Feed]) -> int:
        """How many threads a batch of this size keeps busy.

        With more, a small network waits for its threads longer than it works, ten times longer on a
        machine that has other work. Counted once, on the first batch of the run, for all workers.
        """
        self._mode(training=False)
        flops = np.array([count(lambda: self._run(feeds[0]))], np.float64)
        workers = self._group.workers
        if workers > 1:
            self._group.sum(flops)
        return max(1, min(cpu.threads(workers), int(flops[0] / workers / FLOPS_A_THREAD)))

    def _take_threads(self, threads: int) -> None:
        # Sums come out otherwise in the last bits with another number of threads, so that a run
        # that is taken up again has as many as before.
        self._threads = threads
        if threads and self._device.type == "cpu":
            torch.set_num_threads(threads)

    def _run(self, feed: Feed) -> tuple[dict[str, Any], Any]:
        inputs = {name: self._to(_batch(array)) for name, array in feed.inputs.items()}
        targets = {name: self._to(_batch(array)) for name, array in feed.targets.items()}
        names = tuple(inputs)
        if names not in self._keywords:
            self._keywords[names] = takes_keywords(self.model.forward, names)
        if self._bf16:
            with torch.autocast(self._device.type, torch.bfloat16):
                outputs = self._call(inputs, keywords=self._keywords[names])
        else:
            outputs = self._call(inputs, keywords=self._keywords[names])
        return outputs, summed(self._loss, "pytorch", outputs, targets)

    def _call(self, inputs: dict[str, Any], *, keywords: bool) -> dict[str, Any]:
        outputs = self.model(**inputs) if keywords else self.model(*inputs.values())
        if isinstance(outputs, torch.Tensor):
            return {"output_0": outputs}
        if isinstance(outputs, Mapping) and "logits" in outputs:
            # Of transformers' outputs no caches and no hidden states.
            heads = {n: each for n, each in outputs.items() if isinstance(each, torch.Tensor)}
            return {"logits": heads.pop("logits"), **heads}
        return by_name(outputs)

    def _share(self, loss: float) -> float:
        """Sum the gradients and the loss over all workers, in one flat array."""
        if self._flat is None:
            count = sum(p.numel() for p in self._parameters)
            self._flat = torch.zeros(count + 1, dtype=torch.float32)
            sizes = [p.numel() for p in self._parameters]
            self._parts = list(self._flat[:-1].split(sizes))
        for part, parameter in zip(self._parts, self._parameters, strict=True):
            if parameter.grad is None:
                part.zero_()
            else:
                part.copy_(parameter.grad.reshape(-1))
        self._flat[-1] = loss
        self._group.sum(self._flat.numpy())
        for part, parameter in zip(self._parts, self._parameters, strict=True):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.copy_(part.view_as(parameter))
        return float(self._flat[-1])

    def _draw_anew(self) -> None:
        """What is random in a step, such as dropout, follows from seed, step and worker alone.

        So a run that is taken up again needs no random states, of any worker.
        """
        # torch reads the low 32 bits of a seed.
        seed = zlib.crc32(b"%d %d %d" % (self._seed, self._steps, self._group.rank))
        self._generator.manual_seed(seed)

    def _mode(self, *, training: bool) -> None:
        if self._training is not training:
            self.model.train(training)
            self._training = training

    def _to(self, tensor: Any) -> Any:
        return tensor.to(self._device)

    def _tensors(self) -> dict[str, Any]:
        saved = self.model.state_dict(keep_vars=True)
        named = dict(self.model.named_parameters())
        named.update((n, b) for n, b in self.model.named_buffers() if n in saved)
        return named

    def _changing(self) -> dict[str, Any]:
        return {**self._trained, **dict(self.model.named_buffers())}


def _plain(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.as_tensor(t).detach().contiguous() for name, t in tensors.items()}


def _array(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu()
    kept = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return np.array(kept.numpy(), copy=True)


def _batch(array: np.ndarray) -> Any:
    return torch.from_numpy(array) if aligned(array) else _tensor(array)


def _tensor(array: np.ndarray) -> Any:
    # A copy lies where torch puts its own tensors. Matrix products come out otherwise in the
    # last bits for other alignments, which numpy's arrays have by chance.
    return torch.tensor(array)


LEARNER = PyTorchLearner
