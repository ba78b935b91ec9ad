"""What a worker needs before it starts: memory, files, and the record it is told. Pure."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lmaas.codecs.limits import Limits
from lmaas.config import Settings
from lmaas.errors import ConfigError
from lmaas.runtime.cpu import has_bf16
from lmaas.runtime.language.engine import EngineOptions
from lmaas.runtime.messages import ServeRecord
from lmaas.serving.engines import cache_bytes, choose_engine
from lmaas.serving.plan import language_plan, needed_bytes
from lmaas.serving.precision import choose_precision
from lmaas.serving.variant import choose_variant, weights_bytes
from lmaas.types import FileRole, LanguageSpec, ModelVersion, Precision


class Need(NamedTuple):
    """`files` are unpacked, each version's role into a folder of this name below the worker's."""

    memory_bytes: int
    files: tuple[tuple[ModelVersion, FileRole, str], ...]
    record: Callable[[Path], ServeRecord]


def need_of(
    version: ModelVersion, settings: Settings, budget: int, resolve: Callable[[str], ModelVersion]
) -> Need:
    """What serving `version` needs; `resolve` finds a draft model by its name.

    Raises ConfigError, MissingExtra, ParityFailed where a setting cannot be honoured, DoesNotFit
    where the whole budget is too small for a language model.
    """
    if version.manifest.task == "text-generation":
        return _language(version, settings, budget, resolve)
    precision, reason = _precision(version, settings)
    return Need(
        needed_bytes(version.compiled_bytes),
        ((version, "compiled", "model"),),
        lambda folder: ServeRecord(
            model=version.ref,
            task=version.manifest.task,
            signature=version.manifest.signature,
            folder=str(folder / "model" / "compiled"),
            precision=precision,
            reason=reason,
            max_batch_size=settings.max_batch_size,
            limits=Limits(max_image_pixels=settings.max_image_pixels),
        ),
    )


def _language(
    version: ModelVersion, settings: Settings, budget: int, resolve: Callable[[str], ModelVersion]
) -> Need:
    spec = version.manifest.signature.language
    assert spec is not None
    engine, why_engine = choose_engine(settings.engine, version)
    variant, why_variant = choose_variant(version, settings.variant)
    role: FileRole = "variant" if variant else "compiled"
    top = f"variants/{variant}" if variant else "compiled"
    if engine == "torch":
        variant, top, role, why_variant = None, "source", "source", "as they were pushed"
    precision, why_precision = _precision(version, settings)
    cache = cache_bytes(spec, settings.kv_cache_bytes, settings.max_sequences, budget)
    weights = sum(file.size_bytes for file in version.files if file.path.startswith(f"{top}/"))
    plan = language_plan(
        version.ref,
        weights_bytes=weights,
        cache_bytes=cache,
        kv_bytes_per_token=spec.kv_bytes_per_token,
        context_length=spec.context_length,
        budget=budget,
        forms={form.name: weights_bytes(version, form.name) for form in version.variants},
        num_parameters=version.manifest.num_parameters,
    )
    memory, files = needed_bytes(weights) + cache, [(version, role, "model")]
    draft = _draft(version, spec, settings, engine, resolve)
    if draft is not None:
        memory += needed_bytes(draft.compiled_bytes)
        files.append((draft, "compiled", "draft"))
    return Need(
        memory,
        tuple(files),
        lambda folder: ServeRecord(
            model=version.ref,
            task=version.manifest.task,
            signature=version.manifest.signature,
            folder=str(folder / "model" / top),
            precision=precision,
            reason=f"{engine}: {why_engine}; {variant or 'source'} weights: {why_variant}; "
            f"{precision}: {why_precision}; {plan}",
            max_batch_size=settings.max_batch_size,
            engine=engine,
            variant=variant,
            options=EngineOptions(
                precision=precision,
                cache_bytes=cache,
                max_sequences=settings.max_sequences,
                lookup=settings.prompt_lookup if engine == "openvino-genai" else 0,
                draft=str(folder / "draft" / "compiled") if draft is not None else None,
            ),
        ),
    )


def _precision(version: ModelVersion, settings: Settings) -> tuple[Precision, str]:
    return choose_precision(
        settings.precision,
        model=version.ref,
        cpu_has_bf16=has_bf16(),
        parity=version.parity,
        compiled_bytes=version.compiled_bytes,
    )


def _draft(
    version: ModelVersion,
    spec: LanguageSpec,
    settings: Settings,
    engine: str,
    resolve: Callable[[str], ModelVersion],
) -> ModelVersion | None:
    """The model that guesses for this one. Raises ConfigError for one that cannot."""
    named = dict(entry.partition("=")[::2] for entry in settings.drafts)
    ref = named.get(version.name)
    if ref is None:
        return None
    if engine != "openvino-genai" or settings.prompt_lookup:
        other = "prompt_lookup" if settings.prompt_lookup else f"engine={engine}"
        raise ConfigError(f"A draft model and {other} cannot be combined.", param="drafts")
    draft = resolve(ref)
    other_spec = draft.manifest.signature.language
    if other_spec is None or other_spec.vocabulary_size != spec.vocabulary_size:
        raise ConfigError(
            f"{draft.ref} cannot guess for {version.ref}: its vocabulary is another.",
            hint="A draft model is a smaller one of the same family.",
            param="drafts",
        )
    return draft
