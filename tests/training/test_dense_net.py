"""The net that stacks have learns as PyTorch's does."""

import numpy as np
import pytest

from lmaas.tasks.tabular.training.dense_net import DECAY, Net


@pytest.mark.parametrize("classes", [0, 3])
def test_a_step_is_pytorchs(classes: int) -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    rows = random.normal(size=(32, 5)).astype(np.float32)
    targets = random.integers(0, 3, 32) if classes else random.normal(size=32)
    ours = Net((5, 8, 6, classes or 1), classes, 1)
    parts = []
    for matrix, bias in ours.layers():
        layer = torch.nn.Linear(*matrix.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(matrix.T))
            layer.bias.copy_(torch.tensor(bias))
        parts += [layer, torch.nn.ReLU()]
    theirs = torch.nn.Sequential(*parts[:-1])
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=DECAY)
    for _ in range(5):
        ours.step(rows, targets, 0.01)
        told = theirs(torch.tensor(rows))
        if classes:
            loss = torch.nn.functional.cross_entropy(told, torch.tensor(targets))
        else:
            wanted = torch.tensor(targets[:, None], dtype=torch.float32)
            loss = torch.nn.functional.mse_loss(told, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in parts[::2]]
    for mine, other in zip(ours.layers(), found, strict=True):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)
