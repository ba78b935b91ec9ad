"""Which compressed variant of a language model is served, and which may be. Pure."""

from lmaas.errors import ConfigError, ParityFailed
from lmaas.types import ModelVersion, Precision, VariantName, VariantReport

WEIGHTS = "openvino_model.bin"


def choose_variant(version: ModelVersion, setting: str) -> tuple[VariantName | None, str]:
    """The variant (None: as compiled from the source) and the reason for it.

    "auto" takes the fewest bytes of all that are registered, each of which passed its gate:
    writing a token reads all weights once, so memory is what a CPU waits for. Raises ConfigError
    for a variant that was asked for and not made.
    """
    if setting == "source":
        return None, "set by variant=source"
    if setting != "auto":
        for variant in version.variants:
            if variant.name == setting:
                return variant.name, f"set by variant={setting}"
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
        f"source's, perplexity {report.perplexity_rise:+.1%})"
    )


def variant_name(
    version: ModelVersion, engine: str, precision: Precision, variant: str | None
) -> str:
    """What tells this variant of a version from all others, earlier ones of its name included."""
    made = [each.created_at for each in version.variants if each.name == variant]
    return f"{engine} {precision} {variant or 'source'} {max(made, default=version.created_at)}"


def weights_bytes(version: ModelVersion, variant: VariantName | None) -> int:
    """Size of a variant's weights in bytes; None is the variant compiled from the source."""
    path = f"variants/{variant}/{WEIGHTS}" if variant else f"compiled/{WEIGHTS}"
    return sum(file.size_bytes for file in version.files if file.path == path)


def require_small_rise(model: str, variant: VariantName, report: VariantReport) -> None:
    """Raise ParityFailed, with the numbers, when perplexity rises by more than is allowed."""
    if not report.perplexity_rise <= report.max_drop:
        raise ParityFailed(
            f"{variant} of {model} raises the perplexity from {report.source.perplexity:.4g} to "
            f"{report.compressed.perplexity:.4g} ({report.perplexity_rise:+.1%}; allowed "
            f"{report.max_drop:+.1%}); {report.token_agreement:.0%} of greedy tokens agree. "
            "Nothing was registered.",
            hint="Take a variant with more bits, a smaller group size or a ratio below 1 for int4, "
            "or allow more with max_drop.",
        )
