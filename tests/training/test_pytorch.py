"""What is PyTorch's own: optimizers beside torch's classes, operations, and a quick start."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lmaas.recipe import Optimizer
from lmaas.training.pytorch import optimizers
from lmaas.training.pytorch.flops import count

STEP = """
import sys
import numpy as np
from learner_kit import Points, learner, recipe
given = Points().feed("train", np.arange(32), epoch=0)
for name in ("adamw", "sgd"):
    learner(recipe(optimizer={"name": name})).step([given], learning_rate=0.1, weight=32)
assert "torch" in sys.modules
assert "torch._dynamo" not in sys.modules
"""


def network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))


@pytest.mark.parametrize(
    ("choice", "torchs"),
    [
        (
            Optimizer(name="adamw", weight_decay=0.1, beta1=0.8, beta2=0.95, epsilon=1e-6),
            lambda p: torch.optim.AdamW(
                p, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6, fused=True
            ),
        ),
        (Optimizer(name="sgd"), lambda p: torch.optim.SGD(p, fused=True)),
        (
            Optimizer(name="sgd", momentum=0.9),
            lambda p: torch.optim.SGD(p, momentum=0.9, fused=True),
        ),
    ],
    ids=["adamw", "sgd", "momentum"],
)
def test_steps_are_torchs_bit_for_bit(
    choice: Optimizer, torchs: Callable[[list[Any]], Any]
) -> None:
    ours, theirs = network(), network()
    optimizer = optimizers.make(choice, list(ours.parameters()))
    expected = torchs(list(theirs.parameters()))
    for step in range(6):
        points = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        for model in (ours, theirs):
            model.zero_grad()
            model(points).square().sum().backward()
            # A weight without a gradient stays, and counts later; torch's momentum cannot do it.
            if step < 2 and not choice.momentum:
                model[0].bias.grad = None
        rate = 0.1 / (1 + step)
        expected.param_groups[0]["lr"] = rate
        expected.step()
        with torch.no_grad():
            optimizer.step(rate)
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (network, (4, 5)),
        (lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()), (2, 3, 9, 9)),
        (lambda: torch.nn.TransformerEncoderLayer(16, 4, dim_feedforward=32), (6, 2, 16)),
    ],
    ids=["dense", "convolution", "transformer"],
)
def test_operations_are_those_that_torch_counts(
    make: Callable[[], Any], shape: tuple[int, ...]
) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, inputs = make().train(), torch.rand(shape)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(inputs)
    assert count(lambda: model(inputs)) == counter.get_total_flops() > 0


def test_the_first_step_waits_for_no_compiler() -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
