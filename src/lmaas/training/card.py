"""The model card of a trained version: Hugging Face's README.md, written from what is known.

What users have named (labels, files, columns) is put in as plain text. What is not known, such as
a license, is left out.
"""

import platform
from pathlib import Path
from typing import Any, Final

import msgspec

from lmaas import tasks
from lmaas.job import CURVES_FILE, METRICS_FILE
from lmaas.recipe import Recipe
from lmaas.training.base import Facts
from lmaas.training.face_card import similarities
from lmaas.training.markdown import fenced, literal, quoted
from lmaas.types import Manifest

SPLITS: Final = {"valid": "validation", "test": "test"}
MAX_LABELS: Final = 100


def write(package: Path, facts: Facts) -> None:
    """Put the card into the package's manifest. The package lies beside the run's curves."""
    path = package / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    text = render(manifest, facts, curves=(package / CURVES_FILE).exists())
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, card=text)))


def render(manifest: Manifest, facts: Facts, *, curves: bool) -> str:
    """The whole README.md."""
    recipe = facts.recipe
    parts = [
        f"# {literal(manifest.name)}",
        quoted(recipe.card),
        "## Intended use",
        _intended(manifest, recipe),
        "## Training data",
        _data(facts),
        "## Training procedure",
        _procedure(recipe),
        "## Learning curves",
        _curves(curves),
        "## Evaluation",
        _evaluation(manifest, facts),
        *similarities(manifest.signature.face),
        *_warnings(facts),
        "## Limits",
        _limits(facts),
        "## Lineage",
        _lineage(manifest, facts),
    ]
    return f"---\n{_header(manifest, facts)}\n---\n\n" + "\n\n".join(p for p in parts if p) + "\n"


def _header(manifest: Manifest, facts: Facts) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task, data = _pipeline(manifest), _dataset(facts)
    results = [
        EvalResult(
            task_type=task,
            dataset_type=data,
            dataset_name=data,
            dataset_split=split,
            metric_type=metric,
            metric_value=value,
        )
        for split, metric, value in _metrics(manifest)
    ]
    told = ModelCardData(
        model_name=manifest.name,
        pipeline_tag=task,
        library_name=_library(manifest),
        base_model=facts.recipe.model.base,
        datasets=[data],
        metrics=sorted({result.metric_type for result in results}) or None,
        tags=["lmaas"],
        eval_results=results or None,
    )
    return told.to_yaml()


def _pipeline(manifest: Manifest) -> str:
    spec = tasks.spec(manifest.task)
    unlabelled = manifest.signature.labels is None and spec.pipeline_without_labels
    return unlabelled or spec.pipelines[0]


def _library(manifest: Manifest) -> str:
    return tasks.spec(manifest.task).trained.library or manifest.framework


def _dataset(facts: Facts) -> str:
    return f"sha256-{facts.data['sha256']}" if facts.data.get("sha256") else "unknown"


def _metrics(manifest: Manifest) -> list[tuple[str, str, float]]:
    """Split, metric and value of each number that was measured on held-out samples."""
    found = []
    for name, value in manifest.metrics.items():
        prefix, _, metric = name.partition("_")
        if prefix in SPLITS:
            found.append((SPLITS[prefix], metric, value))
    return found


def _intended(manifest: Manifest, recipe: Recipe) -> str:
    told = f"This model {tasks.spec(recipe.task).trained.does}"
    labels = manifest.signature.labels
    if labels is not None:
        more = f" and {len(labels) - MAX_LABELS} more" if len(labels) > MAX_LABELS else ""
        told += f": {', '.join(literal(label, 80) for label in labels[:MAX_LABELS])}{more}"
    return f"{told}. It is meant for data like that which it was trained on.\n\n" + fenced(
        f"lmaas predict {manifest.name} …", "sh"
    )


def _data(facts: Facts) -> str:
    data = facts.data
    lines = []
    for split in ("train", "validation", "test"):
        given = getattr(facts.recipe.data, split)
        held = "held out of the training data" if isinstance(given, float) else None
        if count := data.get("samples", {}).get(split):
            source = literal(Path(given).name) if isinstance(given, str) else held
            lines.append(f"- {split}: {count} samples ({source})")
    lines.append(f"- sha256: `{data.get('sha256', 'unknown')}`")
    if labels := data.get("labels"):
        told = [f"{literal(label, 80)} {count}" for label, count in labels.items()]
        more = f" and {len(told) - MAX_LABELS} more" if len(told) > MAX_LABELS else ""
        lines.append(f"- training samples of each class: {', '.join(told[:MAX_LABELS])}{more}")
    if hours := data.get("hours"):
        heard = ", ".join(f"{split} {count:.3g} h" for split, count in hours.items())
        lines.append(f"- sound: {heard}")
    if rule := data.get("normaliser"):
        lines.append(f"- texts are learned, and WER and CER measured, in this form: {rule}")
    told = [data["target"]] if "target" in data else []
    lines += [f"- {literal(text, 500)}" for text in (*told, *data.get("read", ()))]
    if left_out := data.get("left_out"):
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        lines.append(f"- columns left out: {literal(why, 2000)}")
    lines += [f"- {text}" for text in _overlap(facts)]
    lines += [f"- {literal(note, 500)}" for note in data.get("notes", ())]
    return "\n".join(lines)


def _overlap(facts: Facts) -> list[str]:
    overlap = facts.data.get("overlap")
    if overlap is None:
        return []
    if not overlap:
        return ["no held-out sample is also among the training samples"]
    told = []
    for split, found in overlap.items():
        places = ", ".join(literal(place) for place in found["places"])
        told.append(f"**{found['samples']} {split} samples are also trained on**, such as {places}")
    return told


def _procedure(recipe: Recipe) -> str:
    import yaml

    plain = msgspec.to_builtins(recipe)
    del plain["card"]
    for split in ("train", "validation", "test"):
        if isinstance(path := plain["data"][split], str):
            # Where it lay on that machine is nobody's business.
            plain["data"][split] = Path(path).name
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
    return "The recipe, with every `auto` resolved:\n\n" + fenced(text, "yaml")


def _curves(drawn: bool) -> str:
    picture = f"![Learning curves]({CURVES_FILE})\n\n" if drawn else ""
    return f"{picture}The numbers of each step that was told of are in `{METRICS_FILE}`."


def _evaluation(manifest: Manifest, facts: Facts) -> str:
    rows = [
        f"| {split} | {metric.replace('_', ' ')} | {value:.6g} |"
        for split, metric, value in _metrics(manifest)
    ]
    if not rows:
        return "Not evaluated: no samples were held out."
    counts = facts.data.get("samples", {})
    sizes = ", ".join(f"{counts[split]} {split}" for split in SPLITS.values() if counts.get(split))
    table = "\n".join(("| samples | metric | value |", "|---|---|---|", *rows))
    compared = facts.data.get("compared")
    more = f"\n\n{literal(compared, 1000)}" if compared else ""
    if how := facts.data.get("measured"):
        more += "\n\n" + "\n".join(f"- {name}: {literal(text)}" for name, text in how.items())
    return f"On {sizes} samples that were not trained on:\n\n{table}{more}"


def _warnings(facts: Facts) -> list[str]:
    told = facts.data.get("warnings")
    return ["## Warnings", "\n".join(f"- {literal(text, 500)}" for text in told)] if told else []


def _limits(facts: Facts) -> str:
    recipe = facts.recipe
    told = [
        "Measured on held-out samples of the data above alone: other data, other groups of people "
        "and other conditions were not looked at.",
        f"One run with the seed {recipe.seed}: how far the numbers would differ in another was not "
        "measured.",
        "Fairness, robustness to attacks and memorised training data were not examined.",
    ]
    if facts.data.get("overlap"):
        told.append("Samples that are also trained on flatter the numbers above.")
    if "compared" in facts.data:
        told.append("Held-out samples chose between models, which flatters their numbers.")
    if recipe.early_stopping is not None:
        told.append("The validation samples chose when to stop, which flatters their numbers.")
    return "\n".join(f"- {line}" for line in told)


def _lineage(manifest: Manifest, facts: Facts) -> str:
    told: dict[str, Any] = {
        "Code": manifest.lineage.code,
        "Framework": f"{manifest.framework} {manifest.framework_version}",
        "Python": platform.python_version(),
        "Job": facts.job,
        "Trained on": facts.recipe.model.base or "nothing: the weights began random",
        "Parameters": f"{manifest.num_parameters:,}",
    }
    return "\n".join(f"- {name}: {literal(text)}" for name, text in told.items() if text)
