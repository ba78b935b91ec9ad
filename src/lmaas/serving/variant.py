"""Which compressed variant of a model is served, and which may be. Pure."""

from lmaas.errors import ConfigError, ParityFailed
from lmaas.types import Measured, ModelVersion, Precision, VariantName, VariantReport

WEIGHTS = ".bin"
NO_WEIGHTS = ("openvino_tokenizer", "openvino_detokenizer")
"""Compiled graphs beside a language model's that compression leaves as they are."""


def choose_variant(
    version: ModelVersion, setting: str, *, needed: bool = True
) -> tuple[VariantName | None, str]:
    """The variant (None: as compiled from the source) and the reason for it.

    "auto" takes the fewest bytes of all that are registered, each of which passed its gate:
    writing a token reads all weights once, so memory is what a CPU waits for. Raises ConfigError
    for a variant that was asked for and not made; unless it is `needed`, the source is taken then.
    """
    if setting == "source":
        return None, "set by variant=source"
    if setting != "auto":
        for variant in version.variants:
            if variant.name == setting:
                return variant.name, f"set by variant={setting}"
        if not needed:
            return None, f"variant={setting} is set, and it was not made of this model"
        raise ConfigError(
            f"variant={setting} is set, but {version.ref} has no such variant.",
            hint=f"Make it with `lmaas compress {version.name} --to {setting}`, or set variant to "
            "auto.",
            param="variant",
        )
    own = weights_bytes(version, None)
    if not version.variants:
        return None, "no variant was made"
    best = min(version.variants, key=lambda v: v.report.compressed.size_bytes)
    report = best.report
    if report.compressed.size_bytes >= own:
        return None, "no variant has fewer bytes"
    return best.name, (
        f"fewest bytes that passed its gate ({report.compressed.size_bytes / own:.0%} of the "
        f"source's, {report.metric} {report.drop:+.1%} worse)"
    )


def variant_name(
    version: ModelVersion, engine: str, precision: Precision, variant: str | None
) -> str:
    """What tells this variant of a version from all others, earlier ones of its name included."""
    made = [each.created_at for each in version.variants if each.name == variant]
    return f"{engine} {precision} {variant or 'source'} {max(made, default=version.created_at)}"


def weights_bytes(version: ModelVersion, variant: VariantName | None) -> int:
    """Size of a variant's weights in bytes; None is the variant compiled from the source."""
    top = f"variants/{variant}/" if variant else "compiled/"
    return sum(
        file.size_bytes
        for file in version.files
        if file.path.startswith(top)
        and file.path.endswith(WEIGHTS)
        and not file.path.removeprefix(top).startswith(NO_WEIGHTS)
    )


def require_small_drop(model: str, variant: VariantName, report: VariantReport) -> None:
    """Raise ParityFailed, with the numbers, when the metric gets worse by more than is allowed."""
    if report.drop <= report.max_drop:
        return
    before, after = value_of(report.source, report), value_of(report.compressed, report)
    agreeing = "greedy tokens" if not report.samples else "answers"
    raise ParityFailed(
        f"{variant} of {model} changes the {report.metric} from {before:.4g} to {after:.4g} "
        f"({report.drop:+.1%} worse; allowed {report.max_drop:+.1%}); "
        f"{report.token_agreement:.0%} of {agreeing} agree. Nothing was registered.",
        hint="Take a variant with more bits, a smaller group size or a ratio below 1 for int4, "
        "or allow more with max_drop.",
    )


def value_of(measured: Measured, report: VariantReport) -> float:
    """The metric that a report judges by."""
    if report.metric == "perplexity":
        assert measured.perplexity is not None
        return measured.perplexity
    return measured.metrics[report.metric]
