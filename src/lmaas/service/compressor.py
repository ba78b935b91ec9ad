"""Smaller variants of models: made and measured in a sandboxed child, gated, registered."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.config import Settings
from lmaas.errors import InvalidInput
from lmaas.placement import sandbox
from lmaas.placement.waiting import to_end
from lmaas.registry.store import Registry
from lmaas.runtime.cpu import gains_from_bf16, has_bf16
from lmaas.runtime.engine import ENGINES
from lmaas.service.catalog import Beside, check_files
from lmaas.service.workshop import Workshop
from lmaas.serving.precision import choose_precision
from lmaas.serving.router import Router
from lmaas.serving.variant import require_small_drop
from lmaas.types import (
    CompressOptions,
    FileRole,
    ModelVersion,
    Progress,
    Variant,
    VariantReport,
)


class Compressor:
    """Makes compressed variants of the models of one home."""

    def __init__(
        self, settings: Settings, registry: Registry, router: Router, workshop: Workshop
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._router = router
        self._workshop = workshop

    async def compress(
        self,
        tenant: str,
        ref: str,
        options: CompressOptions,
        heard: Callable[[Progress], None] = lambda _: None,
        beside: Beside | None = None,
        log: Path | None = None,
    ) -> Variant:
        """Make a smaller variant of a model, measure it, and register it.

        `heard` is told how far it is, in a thread of its own. Where it is the best variant that the
        setting `variant` allows, it takes over from a loaded one within seconds. `beside` writes
        into the transaction that registers it, `log` gets what the child prints. Raises
        ParityFailed, with nothing registered, when the perplexity, or another task's
        metric, gets worse by more than `options.max_drop`.
        """
        version = await self._router.find(tenant, ref)
        context_length = check_compressible(version, options)
        precision, _ = choose_precision(
            self._settings.precision,
            model=version.ref,
            has_bf16=has_bf16(),
            gains=gains_from_bf16(),
            parity=version.parity,
            compiled_bytes=version.compiled_bytes,
        )
        async with self._workshop.scratch("compress") as scratch:
            package, target = scratch / "package", scratch / "variant"
            # Only bf16 is made from the source; the others from what was compiled.
            roles: tuple[FileRole, ...] = ("compiled",)
            if options.to == "bf16":
                roles += ("source",)
            if context_length is None:
                roles += ("sample",)
            await to_end(asyncio.to_thread(self._registry.unpack, version, package, roles))
            request = {
                "folder": str(package),
                "target": str(target),
                "progress": str(scratch / sandbox.PROGRESS),
                "precision": precision,
                "options": options,
            }
            if context_length is None:
                settings = self._settings
                request["manifest"] = version.manifest
                request["limits"] = Limits(
                    max_image_pixels=settings.max_image_pixels,
                    max_media_bytes=settings.max_body_bytes,
                    max_audio_s=settings.max_audio_s,
                )
            else:
                request["context_length"] = context_length
            reply = await self._workshop.child(
                f"lmaas.compression.{'judged' if context_length is None else 'weights'}",
                request,
                scratch,
                lambda line: heard(msgspec.json.decode(line, type=Progress)),
                reads=(package,),
                log=log,
            )
            report = msgspec.json.decode(reply, type=VariantReport)
            require_small_drop(version.ref, options.to, report)
            stored = await to_end(
                asyncio.to_thread(
                    self._registry.add_variant, version, options.to, report, target, beside
                )
            )
        return next(variant for variant in stored.variants if variant.name == options.to)


def check_compressible(version: ModelVersion, options: CompressOptions) -> int | None:
    """The context length of a language model that a smaller variant is made of; None for another.

    Raises InvalidInput for models and options that do not go together.
    """
    check_files(version, "to compress", param="ref")
    manifest = version.manifest
    spec, language = tasks.spec(manifest.task), manifest.signature.language
    if spec.generates and language is not None:
        if language.accepts != ("text",):
            raise InvalidInput(
                f"{version.ref} takes images: compressed are models that take text only.",
                param="ref",
            )
        if options.samples:
            raise InvalidInput(
                "A language model is measured on a text, not on samples.", param="samples"
            )
        if not version.compiled_bytes:
            raise InvalidInput(
                f"{version.ref} was not compiled: {manifest.lineage.recipe.get('not_compiled')}",
                hint="Only compiled models are compressed.",
                param="ref",
            )
        return language.context_length
    if spec.judge is None and manifest.signature.sequence is None:
        judged = [each.name for each in tasks.specs() if each.judge is not None or each.generates]
        raise InvalidInput(
            f"{version.ref} is a model for {manifest.task}; compressed are models for "
            f"{', '.join(judged)}.",
            param="ref",
        )
    if not ENGINES[manifest.engine].variants:
        raise InvalidInput(
            f"{version.ref} is served by the engine {manifest.engine}, which takes no compressed "
            "weights.",
            param="ref",
        )
    if not options.samples and manifest.signature.sequence is None:
        raise InvalidInput(
            f"A model for {manifest.task} is compressed by what it does with samples.",
            hint="Give calls and their right answers: `lmaas compress … --data FILE --expected "
            "COLUMN`.",
            param="samples",
        )
    if options.samples and spec.judge is None:
        raise InvalidInput(
            f"A model for {manifest.task} is judged by its references, not by samples.",
            param="samples",
        )
    return None
