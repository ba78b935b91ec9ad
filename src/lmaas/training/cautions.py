"""What should make people doubt a model, from what is known of its data and its numbers.

Each is one sentence that says what was seen and what it means. They are told in the job, stand in
the card and beside the last line's scores.
"""

from collections.abc import Mapping
from typing import Any, Final

from lmaas.recipe import Recipe

FEW_ROWS: Final = 100
FEW_HELD: Final = 30
FEW_OF_A_CLASS: Final = 5
RARE: Final = 0.02
TRIVIAL_ACCURACY: Final = 0.002
TRIVIAL_F1: Final = 0.03
"""So much above a trivial guess is still one."""
SPLITS: Final = {"valid": "validation", "test": "test"}


def of_data(recipe: Recipe, facts: Mapping[str, Any]) -> list[str]:
    """Before training: what was held out, how much there is, how the classes stand."""
    counts = facts.get("samples", {})
    train = counts.get("train", 0)
    told = [*facts.get("doubts", ())]
    if 0 < train < FEW_ROWS:
        told.append(f"There are only {train} samples to learn from.")
    for split in ("validation", "test"):
        wanted, held = getattr(recipe.data, split), counts.get(split, 0)
        if wanted and not held:
            told.append(
                f"No {split} samples could be held out: too few of each class. Nothing is known of "
                "how good the model is."
            )
        elif 0 < held < FEW_HELD:
            told.append(f"There are only {held} {split} samples: their numbers are much chance.")
    labels: dict[str, int] = facts.get("labels") or {}
    if not labels or not train:
        return told
    few = [label for label, count in labels.items() if count < FEW_OF_A_CLASS]
    if few:
        told.append(
            f"{len(few)} of {len(labels)} classes have fewer than {FEW_OF_A_CLASS} training "
            f"samples, such as {few[0][:80]!r}: they can hardly be learned."
        )
    rarest = min(labels, key=lambda label: labels[label])
    if labels[rarest] < RARE * train and rarest not in few and len(labels) <= 1 / RARE:
        told.append(
            f"The class {rarest[:80]!r} has {labels[rarest] / train:.2%} of the training "
            "samples: accuracy says little of it, macro F1 and AUC more."
        )
    return told


def of_result(facts: Mapping[str, Any], metrics: Mapping[str, float]) -> list[str]:
    """After training: whether the model is better than a guess, or too good to be true."""
    told = []
    labels: dict[str, int] = facts.get("labels") or {}
    held = facts.get("samples", {})
    for prefix, split in SPLITS.items():
        if not held.get(split):
            continue
        accuracy, r2 = metrics.get(f"{prefix}_accuracy"), metrics.get(f"{prefix}_r2")
        if r2 is not None and r2 <= 0:
            told.append(f"On the {split} samples the model is no better than their mean.")
        if accuracy is None or not labels:
            continue
        common = max(labels, key=lambda label: labels[label])
        share = labels[common] / max(1, sum(labels.values()))
        trivial = 2 * share / (1 + share) / len(labels)
        if accuracy == 0:
            told.append(f"On the {split} samples not one answer is right.")
        elif (
            accuracy <= share + TRIVIAL_ACCURACY
            and metrics.get(f"{prefix}_macro_f1", 1) <= trivial + TRIVIAL_F1
        ):
            told.append(
                f"On the {split} samples the model is no better than the answer "
                f"{common[:80]!r} to everything: accuracy {accuracy:.3f}, macro F1 "
                f"{metrics.get(f'{prefix}_macro_f1', 0):.3f}."
            )
    return told
