"""AdamW and SGD through torch's functions, not its classes.

The class of an optimizer imports torch's compiler when it is made, which takes 1.6 s and 100 MB,
and spends more on each step of a small network than the arithmetic does (docs/log.md).
"""

from typing import Any

import torch
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from lmaas.recipe import Optimizer

State = dict[Any, dict[str, torch.Tensor]]


class AdamW:
    """Loshchilov and Hutter's (2019), with its decay of the weights.

    `state` has each parameter's moments and count of steps from its first gradient on.
    """

    def __init__(self, choice: Optimizer, parameters: list[Any]) -> None:
        self.state: State = {}
        self._choice = choice
        self._parameters = parameters

    def step(self, learning_rate: float) -> None:
        """Move all parameters that have gradients."""
        choice, moved = self._choice, _moved(self._parameters)
        for parameter in moved:
            if parameter not in self.state:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in moved]
        adamw(
            moved,
            [parameter.grad for parameter in moved],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=choice.beta1,
            beta2=choice.beta2,
            lr=learning_rate,
            weight_decay=choice.weight_decay,
            eps=choice.epsilon,
            maximize=False,
        )


class SGD:
    """Stochastic gradient descent, with momentum where `state` has buffers. It decays nothing."""

    def __init__(self, choice: Optimizer, parameters: list[Any]) -> None:
        self.state: State = {}
        self._momentum = choice.momentum
        self._parameters = parameters

    def step(self, learning_rate: float) -> None:
        """Move all parameters that have gradients."""
        moved = _moved(self._parameters)
        buffers: list[torch.Tensor | None] = [None] * len(moved)
        if self._momentum:
            for number, parameter in enumerate(moved):
                if parameter not in self.state:
                    self.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}
                buffers[number] = self.state[parameter]["momentum_buffer"]
        sgd(
            moved,
            [parameter.grad for parameter in moved],
            buffers,
            fused=True,
            weight_decay=0.0,
            momentum=self._momentum,
            lr=learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )


def make(choice: Optimizer, parameters: list[Any]) -> AdamW | SGD:
    """The optimizer that a recipe names."""
    return (SGD if choice.name == "sgd" else AdamW)(choice, parameters)


def _moved(parameters: list[Any]) -> list[Any]:
    return [parameter for parameter in parameters if parameter.grad is not None]
