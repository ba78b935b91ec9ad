"""What is trained in the benchmark of training: data drawn from a seed, and recipes over it.

All samples of a workload are equally long, so that no batch is padded and both sides do the same
arithmetic.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks import checkpoints
from lmaas.recipe import Recipe, recipe_of

SEED: Final = 11
NEVER: Final = 1 << 30
CLASSES: Final = 10


class Workload(NamedTuple):
    """One network on one data set: `steps` of `batch` samples."""

    task: str
    model: dict[str, Any]
    write: Callable[[Path, int], dict[str, Any]]
    """Writes so many samples into a folder; the recipe's `data`."""
    samples: int
    batch: int
    steps: int
    frameworks: tuple[str, ...]

    def recipe(self, framework: str, folder: Path, **more: Any) -> Recipe:
        """The recipe of a run that does nothing but train, over data in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        return recipe_of(
            {
                "name": "measured",
                "task": self.task,
                "framework": framework,
                "model": self.model,
                "data": {"validation": 0.0, **self.write(folder, self.samples)},
                "batch_size": self.batch,
                "steps": self.steps,
                "optimizer": {"name": "adamw", "learning_rate": 1e-4, "weight_decay": 0.01},
                "checkpoints": {"every_steps": NEVER},
                "evaluation": {"every_steps": NEVER},
                **more,
            }
        )


def _images(side: int, channels: int) -> Callable[[Path, int], dict[str, Any]]:
    def write(folder: Path, count: int) -> dict[str, Any]:
        from PIL import Image

        random = np.random.default_rng(SEED)
        shape = (side, side, channels) if channels > 1 else (side, side)
        train = folder / "images"
        for label in range(CLASSES):
            (train / str(label)).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            path = train / str(index % CLASSES) / f"{index:06d}.png"
            Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(path, compress_level=1)
        return {"train": str(train)}

    return write


def _texts(length: int) -> Callable[[Path, int], dict[str, Any]]:
    def write(folder: Path, count: int) -> dict[str, Any]:
        random = np.random.default_rng(SEED)
        syllables = np.array(checkpoints.SYLLABLES)
        words = np.array(["".join(row) for row in syllables[random.integers(0, 70, (6000, 3))]])
        path = folder / "texts.jsonl"
        with path.open("w") as file:
            for index in range(count):
                text = " ".join(words[random.integers(0, len(words), length)])
                file.write(json.dumps({"text": text, "label": str(index % CLASSES)}) + "\n")
        return {"train": str(path), "options": {"vocabulary": 8000, "max_length": length}}

    return write


def _answers(length: int) -> Callable[[Path, int], dict[str, Any]]:
    def write(folder: Path, count: int) -> dict[str, Any]:
        prompts = checkpoints.Prompts(base(folder))
        path = folder / "answers.jsonl"
        with path.open("w") as file:
            for asked, told in zip(
                prompts.unique(count, 16), prompts.unique(count, length), strict=True
            ):
                row = {"prompt": prompts.text(asked), "completion": prompts.text(told)}
                file.write(json.dumps(row) + "\n")
        return {"train": str(path)}

    return write


def base(folder: Path) -> Path:
    """The 113 M checkpoint beside the data, made once."""
    made = folder / "base"
    if not made.exists():
        checkpoints.make("113m", made)
    return made


EVERY: Final = ("pytorch", "keras", "tensorflow")
WORKLOADS: Final = {
    "mlp": Workload(
        "image-classification",
        {"architecture": "mlp", "options": {"hidden": [128]}},
        _images(28, 1), 6400, 64, 6000, EVERY,
    ),
    "resnet18": Workload(
        "image-classification",
        {"architecture": "resnet18"},
        _images(32, 3), 640, 32, 30, EVERY,
    ),
    "bert-small": Workload(
        "text-classification",
        {"architecture": "transformer", "options": {"width": 512, "depth": 4, "heads": 8}},
        _texts(128), 512, 16, 24, EVERY,
    ),
    "lm-113m": Workload(
        "text-generation", {}, _answers(104), 64, 4, 10, ("pytorch",),
    ),
}  # fmt: skip
"""By name; BERT-small is 4 layers of 512 (Turc et al., 2019), the ResNet He et al.'s for 32 x 32.

The language model reads 16 + 104 tokens."""
