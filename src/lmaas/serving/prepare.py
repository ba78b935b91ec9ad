"""What a worker needs before it starts: memory, files, and the record it is told.

Pure, but that it looks into the environment of `vllm_python` where that counts.
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.config import Settings
from lmaas.errors import ConfigError
from lmaas.runtime.cpu import gains_from_bf16, has_bf16
from lmaas.runtime.engine import ENGINES, require_engine
from lmaas.runtime.engine_spec import EngineSpec
from lmaas.runtime.language.embedded import vision_bytes
from lmaas.runtime.language.engine import EngineOptions
from lmaas.runtime.messages import ServeRecord
from lmaas.serving.engines import (
    cache_bytes,
    choose_engine,
    has_gpu,
    sequence_cache_bytes,
    vllm_install,
)
from lmaas.serving.pipeline import pipeline_need, pipeline_precision
from lmaas.serving.plan import Need, language_plan, needed_bytes
from lmaas.serving.precision import choose_precision
from lmaas.serving.variant import choose_variant, variant_name, weights_bytes
from lmaas.serving.vllm_command import ELEMENT_BYTES
from lmaas.types import FileRole, LanguageSpec, ModelVersion, Precision, VariantName


class ServedVariant(NamedTuple):
    """What a model is served with, and why; `role` is that of its files."""

    engine: EngineSpec
    variant: VariantName | None
    precision: Precision
    role: FileRole
    on_gpu: bool
    reason: str

    @property
    def top(self) -> str:
        """The folder of its files in a package."""
        return self.role if self.variant is None else f"variants/{self.variant}"


def need_of(
    version: ModelVersion, settings: Settings, budget: int, resolve: Callable[[str], ModelVersion]
) -> Need:
    """What serving `version` needs; `resolve` finds a draft model by its name.

    Raises ConfigError, MissingExtra, ParityFailed where a setting cannot be honoured, DoesNotFit
    where the whole budget is too small for a language model.
    """
    if tasks.spec(version.manifest.task).generates:
        return _language(version, settings, budget, resolve)
    if version.manifest.parts:
        return pipeline_need(version, settings, _limits(settings))
    engine = require_engine(version.manifest.engine, version.ref)
    chosen = _served(version, settings, engine)
    precision, top = chosen.precision, chosen.top
    weights = version.compiled_bytes
    if chosen.variant is not None:
        weights = sum(file.size_bytes for file in version.files if file.path.startswith(f"{top}/"))
    memory, options = needed_bytes(weights, engine.memory.overhead_bytes), None
    if engine.worker == "sequences":
        options = _sequence_options(version, settings, budget, precision)
        memory += options.cache_bytes
    return Need(
        memory,
        ((version, chosen.role, "model"),),
        lambda folder: ServeRecord(
            model=version.ref,
            task=version.manifest.task,
            signature=version.manifest.signature,
            folder=str(folder / "model" / top),
            precision=precision,
            reason=chosen.reason,
            variant=chosen.variant,
            max_batch_size=settings.max_batch_size,
            engine=engine,
            options=options,
            limits=_limits(settings),
        ),
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_image_pixels=settings.max_image_pixels,
        max_media_bytes=settings.max_body_bytes,
        max_audio_s=settings.max_audio_s,
    )


def _sequence_options(
    version: ModelVersion, settings: Settings, budget: int, precision: Precision
) -> EngineOptions:
    """How an encoder-decoder is run."""
    spec = version.manifest.signature.sequence
    assert spec is not None
    size = sequence_cache_bytes(spec, settings.kv_cache_bytes, settings.max_sequences, budget)
    return EngineOptions(
        precision=precision, cache_bytes=size, max_sequences=settings.max_sequences
    )


def choose_served_variant(version: ModelVersion, settings: Settings) -> ServedVariant:
    """What a language model is served with. Raises as `need_of` does for settings."""
    vllm = vllm_install(settings)
    engine, why_engine = choose_engine(settings.engine, version, vllm)
    on_gpu = engine.memory.on_gpu and vllm is not None and vllm.gpu and has_gpu()
    variant, why_variant = choose_variant(version, settings.variant)
    role: FileRole = "variant" if variant else engine.files
    if not engine.variants:
        variant, role, why_variant = None, engine.files, "as they were pushed"
    # In f32 typed weights would take twice the memory.
    in_memory = engine.memory.typed_weights
    precision, why_precision = _precision(version, settings, on_gpu=on_gpu, in_memory=in_memory)
    reason = (
        f"{engine.name}: {why_engine}; {variant or 'source'} weights: {why_variant}; "
        f"{precision}: {why_precision}"
    )
    return ServedVariant(engine, variant, precision, role, on_gpu, reason)


def has_variants(version: ModelVersion) -> bool:
    """Whether a version can get another variant than it is loaded in: compression makes them."""
    if version.manifest.upstream is not None:
        return False
    return tasks.spec(version.manifest.task).generates or ENGINES[version.manifest.engine].variants


def served_variant_name(version: ModelVersion, settings: Settings) -> str:
    """The name of the variant that a model has when it is loaded now."""
    if version.manifest.upstream is not None:
        return "upstream"
    if tasks.spec(version.manifest.task).generates:
        chosen = choose_served_variant(version, settings)
    else:
        chosen = _served(version, settings, ENGINES[version.manifest.engine])
    return variant_name(version, chosen.engine.name, chosen.precision, chosen.variant)


def _served(version: ModelVersion, settings: Settings, engine: EngineSpec) -> ServedVariant:
    """What a model that is no language model is served with."""
    if version.manifest.parts:
        precision, reason = pipeline_precision(version, settings)
        return ServedVariant(engine, None, precision, engine.files, on_gpu=False, reason=reason)
    if "bf16" in engine.precisions:
        precision, reason = _precision(version, settings)
    else:
        precision, reason = "f32", f"as {engine.name} computes: {version.manifest.engine_reason}"
    variant: VariantName | None = None
    role: FileRole = engine.files
    if engine.variants and version.variants:
        variant, why = choose_variant(version, settings.variant, needed=False)
        role = "variant" if variant else engine.files
        reason = f"{variant or 'source'} weights: {why}; {precision}: {reason}"
    return ServedVariant(engine, variant, precision, role, on_gpu=False, reason=reason)


def _language(
    version: ModelVersion, settings: Settings, budget: int, resolve: Callable[[str], ModelVersion]
) -> Need:
    spec = version.manifest.signature.language
    assert spec is not None
    chosen = choose_served_variant(version, settings)
    engine, variant, precision, top = chosen.engine, chosen.variant, chosen.precision, chosen.top
    weights = sum(file.size_bytes for file in version.files if file.path.startswith(f"{top}/"))
    if chosen.on_gpu:
        memory, cache = engine.memory.overhead_bytes, settings.kv_cache_bytes
        plan = _gpu_plan(settings)
    else:
        memory, cache, plan = _cpu_plan(version, spec, settings, budget, engine, precision, weights)
    files = [(version, chosen.role, "model")]
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
            reason=f"{chosen.reason}; {plan}",
            max_batch_size=settings.max_batch_size,
            engine=engine,
            limits=_limits(settings),
            variant=variant,
            options=EngineOptions(
                precision=precision,
                cache_bytes=cache,
                max_sequences=settings.max_sequences,
                lookup=settings.prompt_lookup if engine.drafts and spec.vision is None else 0,
                draft=str(folder / "draft" / "compiled") if draft is not None else None,
            ),
        ),
    )


def _cpu_plan(
    version: ModelVersion,
    spec: LanguageSpec,
    settings: Settings,
    budget: int,
    engine: EngineSpec,
    precision: Precision,
    weights: int,
) -> tuple[int, int, str]:
    """Bytes of all and of the cache, and both for people. Raises DoesNotFit."""
    overhead, token_bytes = engine.memory.overhead_bytes, spec.kv_bytes_per_token
    if engine.memory.typed_cache:
        token_bytes = token_bytes // 2 * ELEMENT_BYTES[precision]
    sized = msgspec.structs.replace(spec, kv_bytes_per_token=token_bytes)
    cache = cache_bytes(sized, settings.kv_cache_bytes, settings.max_sequences, budget)
    if spec.vision is not None:
        overhead += vision_bytes(spec.vision, cache // max(1, token_bytes))
    plan = language_plan(
        version.ref,
        weights_bytes=weights,
        cache_bytes=cache,
        kv_bytes_per_token=token_bytes,
        context_length=spec.context_length,
        budget=budget,
        variants=None
        if not engine.variants
        else {each.name: weights_bytes(version, each.name) for each in version.variants},
        num_parameters=version.manifest.num_parameters,
        overhead_bytes=overhead,
    )
    return needed_bytes(weights, overhead) + cache, cache, plan


def _gpu_plan(settings: Settings) -> str:
    if settings.kv_cache_bytes:
        return f"a KV cache of {settings.kv_cache_bytes / 1e9:.1f} GB on the GPU"
    return f"weights and KV cache take {settings.vllm_gpu_memory:.0%} of the GPU"


def _precision(
    version: ModelVersion, settings: Settings, *, on_gpu: bool = False, in_memory: bool = False
) -> tuple[Precision, str]:
    return choose_precision(
        settings.precision,
        model=version.ref,
        has_bf16=on_gpu or has_bf16(),
        gains=on_gpu or in_memory or gains_from_bf16(),
        machine="GPU" if on_gpu else "CPU",
        parity=version.parity,
        compiled_bytes=version.compiled_bytes,
    )


def _draft(
    version: ModelVersion,
    spec: LanguageSpec,
    settings: Settings,
    engine: EngineSpec,
    resolve: Callable[[str], ModelVersion],
) -> ModelVersion | None:
    """The model that guesses for this one. Raises ConfigError for one that cannot."""
    named = dict(entry.partition("=")[::2] for entry in settings.drafts)
    ref = named.get(version.name)
    if ref is None:
        return None
    if not engine.drafts or settings.prompt_lookup:
        other = "prompt_lookup" if settings.prompt_lookup else f"engine={engine.name}"
        raise ConfigError(f"A draft model and {other} cannot be combined.", param="drafts")
    if spec.vision is not None:
        raise ConfigError(
            f"{version.ref} takes images: no draft model guesses for it.", param="drafts"
        )
    draft = resolve(ref)
    other_spec = draft.manifest.signature.language
    if other_spec is None or other_spec.vocabulary_size != spec.vocabulary_size:
        raise ConfigError(
            f"{draft.ref} cannot guess for {version.ref}: its vocabulary is another.",
            hint="A draft model is a smaller one of the same family.",
            param="drafts",
        )
    return draft
