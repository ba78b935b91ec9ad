"""Object detection on a checkpoint that is there: DETR, YOLOS, RT-DETR or D-FINE of transformers.

The base is a detector that was pushed, or one that such a run made: its package's `source/` is a
checkpoint again. The loss is the model's own: queries are matched with objects (Carion et al.,
2020). PyTorch only: transformers has no other.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.errors import InvalidInput
from lmaas.frameworks import checkpoint, detector, package
from lmaas.recipe import Recipe, TrainingFramework
from lmaas.tasks.object_detection import guess
from lmaas.tasks.object_detection.options import DetectionDataOptions
from lmaas.tasks.object_detection.training.scenes import NONE, TRUE, Scenes
from lmaas.training.base import Facts, Feed, Loss, Split
from lmaas.training.problems.base_model import read_manifest, require
from lmaas.training.problems.classification import lineage
from lmaas.types import BATCH, Signature, TensorSpec

SAMPLE: Final = 2
WHOLE: Final = {
    "accumulate": "accumulate 1",
    "distribution.workers": "one worker",
    "precision": "the precision f32",
}
"""What a run cannot have, as the loss of a batch is not the sum of its images' losses, and queries
are matched in float32; and what it has."""


class CheckpointTuning(Scenes):
    """The problem of one recipe; `base` is the package of a detector, `folder` the job's."""

    def __init__(self, recipe: Recipe, folder: Path, base: Path) -> None:
        manifest = read_manifest(base)
        signature = manifest.signature
        architecture = checkpoint.architecture_of(checkpoint.read_config(base / "source"))
        if manifest.task != recipe.task or architecture not in detector.ARCHITECTURES:
            raise InvalidInput(
                f"The base model is one of {manifest.task} ({architecture}); object-detection is "
                f"trained on {', '.join(detector.ARCHITECTURES)}.",
                hint="Push a detector's checkpoint.",
                param="model.base",
            )
        if recipe.framework not in ("auto", "pytorch"):
            raise InvalidInput(
                f"A detector's checkpoint is trained in pytorch; received {recipe.framework}.",
                hint="Leave framework out, or train a network from nothing.",
                param="framework",
            )
        if recipe.model.architecture not in (None, "auto"):
            raise InvalidInput(
                f"The base model is a checkpoint, not a {recipe.model.architecture}.",
                hint="Leave model.architecture out.",
                param="model.architecture",
            )
        require(recipe.model.options, {}, "model.options")
        asked = (recipe.accumulate > 1, recipe.distribution.workers > 1, recipe.precision != "f32")
        for (name, has), wrong in zip(WHOLE.items(), asked, strict=True):
            if wrong:
                raise InvalidInput(
                    f"A detector's checkpoint learns whole batches in float32: {has}.",
                    hint=f"Leave {name} out.",
                    param=name,
                )
        assert signature.image is not None
        own = {
            name: getattr(signature.image, name) for name in DetectionDataOptions.__struct_fields__
        }
        require(recipe.data.options, own, "data.options")
        super().__init__(recipe, folder, signature.image, "CHW")
        self.model = recipe.model
        self.loss = Loss(name="own", outputs=("losses",))
        self._known = detector.ARCHITECTURES[architecture]
        self._source, self._trained = base / "source", folder / "trained"
        self._queries = signature.outputs[0].shape[1]

    def num_parameters(self) -> int:
        """See `base.Counted.num_parameters`; with the base's classes."""
        from transformers import AutoModelForObjectDetection

        sizes = checkpoint.outline(AutoModelForObjectDetection, self._source)
        return sum(int(parameter.numel()) for parameter in sizes.parameters())

    def feed(self, split: Split, indices: np.ndarray, *, epoch: int | None) -> Feed:
        """Pixels, and the objects as inputs of the network; the feed weighs as many as there are,
        as its loss is a mean over them.
        """
        pixels, scenes = self._seen(split, indices, epoch)
        most = max([1, *(len(scene.boxes) for scene in scenes)])
        classes = np.full((len(scenes), most), NONE, np.int64)
        boxes = np.zeros((len(scenes), most, 4), np.float32)
        sides = np.array([self.image.width, self.image.height] * 2)
        for row, scene in enumerate(scenes):
            low, high = np.split(scene.boxes / sides, 2, axis=1)
            classes[row, : len(scene.classes)] = scene.classes
            boxes[row, : len(scene.boxes)] = np.concatenate([(low + high) / 2, high - low], axis=1)
        counts = (classes >= 0).sum(axis=1).astype(np.float32)
        if not counts.any():
            counts[:] = 1 / len(counts)
        targets = {"objects": counts}
        if epoch is None:
            targets[TRUE] = self._true(split, indices)
        return Feed(
            inputs={"pixels": pixels, "classes": classes, "boxes": boxes},
            targets=targets,
            size=len(scenes),
            weight=float(counts.sum()),
        )

    def signature(self) -> Signature:
        """How the network's outputs are read."""
        image = self.image
        extra = self._known.detection.background == "last"
        shapes = {"boxes": 4, "logits": len(self.labels) + extra}
        given = Signature(
            inputs=(
                TensorSpec(
                    name="pixels", dtype="float32", shape=(BATCH, 3, image.height, image.width)
                ),
            ),
            outputs=tuple(
                TensorSpec(name=name, dtype="float32", shape=(BATCH, self._queries, size))
                for name, size in shapes.items()
            ),
            labels=self.labels,
            image=image,
            detection=self._known.detection,
        )
        return guess.completed(given)

    def build(self, framework: TrainingFramework) -> Any:
        """The checkpoint's model, with new last layers where the classes are others."""
        from lmaas.tasks.object_detection.training.checkpoint import load

        assert framework == "pytorch", framework
        return load(self._source, self.labels, self._recipe.seed, masked=self._known.masked)

    def package(self, model: Any, folder: Path, facts: Facts) -> None:
        """A package for the task `object-detection`; its source is a checkpoint."""
        from lmaas.training.pytorch import language

        split: Split = "validation" if self.size("validation") else "train"
        pixels, _ = self._seen(split, np.arange(min(SAMPLE, self.size(split))), None)
        language.save(model, self._source, self._trained)
        recipe = facts.recipe
        package.build(
            detector.wrapped(model.model, masked=self._known.masked),
            name=recipe.name,
            task=recipe.task,
            sample=pixels,
            folder=folder,
            labels=self.labels,
            image=self.image,
            detection=self._known.detection,
            metrics=facts.metrics,
            card=facts.card or recipe.card,
            lineage=lineage(recipe, facts),
            source=self._trained,
        )
