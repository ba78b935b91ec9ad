"""The model card of a pipeline: which models it is made of, and what each of them does in it."""

from lmaas import tasks
from lmaas.training.markdown import literal, quoted
from lmaas.types import Manifest


def pipeline_card(manifest: Manifest, told: str) -> str:
    """A README.md as Hugging Face has it; `told` is what its maker says."""
    from huggingface_hub import ModelCardData

    spec = tasks.spec(manifest.task)
    header = ModelCardData(
        model_name=manifest.name,
        pipeline_tag=next(iter(spec.pipelines), None),
        library_name="lmaas",
        base_model=[part.model for part in manifest.parts],
        tags=["lmaas", "pipeline"],
    )
    does = {role.name: role.does for role in spec.roles}
    rows = [
        f"| {part.role} | {does[part.role]} | {part.model} | {part.task} | {part.framework} | "
        f"{part.engine}{f', {part.variant} weights' if part.variant else ''} | "
        f"{part.num_parameters} |"
        for part in manifest.parts
    ]
    labels = manifest.signature.labels
    sections = [
        f"# {literal(manifest.name)}",
        quoted(told),
        f"A pipeline for {manifest.task}: it takes {spec.takes} and gives {spec.gives}.",
        "## Parts",
        "\n".join(
            (
                "| part | what it does | model | task | framework | engine | parameters |",
                "|---|---|---|---|---|---|---|",
                *rows,
            )
        ),
        "The parts are copies: they stay as they were when their own versions change or go. What "
        "is known of each of them stands in its own card.",
        f"Labels: {', '.join(literal(label, 80) for label in labels)}" if labels else "",
    ]
    return f"---\n{header.to_yaml()}\n---\n\n" + "\n\n".join(s for s in sections if s) + "\n"
