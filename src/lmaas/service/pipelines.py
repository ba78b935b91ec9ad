"""Models that are made of models: parts found and checked, put together, tried and registered."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from lmaas import tasks
from lmaas.errors import InvalidInput, LMaaSError
from lmaas.placement.waiting import to_end
from lmaas.registry.names import check_name
from lmaas.registry.store import Registry
from lmaas.runtime.engine import ENGINES
from lmaas.service.card import pipeline_card
from lmaas.service.catalog import Verified
from lmaas.service.quota import Quota
from lmaas.service.workshop import Workshop
from lmaas.serving.pipeline import FOLDER
from lmaas.serving.router import Router
from lmaas.serving.variant import choose_variant
from lmaas.tasks.pipelines import PipelineTask
from lmaas.tasks.spec import Role
from lmaas.types import (
    FileRef,
    Lineage,
    Manifest,
    ModelVersion,
    Part,
    PipelineBody,
    Signature,
    VariantName,
)

VARIANTS: Final = "variants"


class Pipelines:
    """What makes pipelines of the models of one home; `variant` is the setting of that name."""

    def __init__(
        self,
        registry: Registry,
        router: Router,
        workshop: Workshop,
        quota: Quota,
        variant: str,
    ) -> None:
        self._registry = registry
        self._router = router
        self._workshop = workshop
        self._quota = quota
        self._variant = variant

    async def make(self, tenant: str, body: PipelineBody) -> ModelVersion:
        """Register `body.name` as a pipeline of models of `tenant`, or its next version.

        It has the files that serve its parts now, compressed ones where that is so, and keeps them
        when a part's own version is deleted. It is loaded and answers a drawn sample before it is
        registered. Raises InvalidInput for parts that do not fit, naming the role as
        `parts.<role>`, ModelNotFound for those that `tenant` has not, InsufficientQuota.
        """
        check_name(body.name)
        roles = check_roles(body)
        found: dict[str, ModelVersion] = {}
        for role in roles:
            param = f"parts.{role.name}"
            try:
                found[role.name] = await self._router.find(tenant, body.parts[role.name])
            except LMaaSError as error:
                raise type(error)(
                    f"{param}: {error.message}", hint=error.hint, param=param
                ) from None
            check_part(role, found[role.name])
        task = tasks.get(body.task)
        assert isinstance(task, PipelineTask), body.task
        taken = {role: choose_files(version, self._variant) for role, version in found.items()}
        parts = {role: part_of(role, found[role], taken[role][0]) for role in found}
        manifest = manifest_of(body, parts, task.check_parts(parts))
        async with self._workshop.scratch("pipeline") as scratch:
            package = scratch / "package"
            await to_end(asyncio.to_thread(self._put, tenant, manifest, found, taken, package))
            reply = await self._workshop.child(
                "lmaas.runtime.verify", {"folder": str(package)}, scratch, reads=(package,)
            )
            report = msgspec.json.decode(reply, type=Verified).parity
            add = asyncio.to_thread(self._registry.add, tenant, manifest, report, package)
            return await to_end(add)

    def _put(
        self,
        tenant: str,
        manifest: Manifest,
        found: Mapping[str, ModelVersion],
        taken: Mapping[str, tuple[VariantName | None, tuple[FileRef, ...]]],
        package: Path,
    ) -> None:
        """Lay the parts' files into the package. What the tenant has already counts once."""
        self._quota.check(tenant, 0)
        package.mkdir(mode=0o700)
        with self._registry.blobs.adding():  # nothing is collected meanwhile
            for role, version in found.items():
                self._registry.resolve(tenant, version.ref)
                for file in taken[role][1]:
                    _, _, path = file.path.removeprefix(f"{VARIANTS}/").partition("/")
                    self._registry.blobs.link(file.sha256, package / FOLDER / role / path)
        (package / "manifest.json").write_bytes(msgspec.json.encode(manifest))


def check_roles(body: PipelineBody) -> list[Role]:
    """The roles that `body` names a part for, in the task's order. Raises InvalidInput."""
    spec = tasks.spec(body.task)
    if not spec.roles:
        known = ", ".join(each.name for each in tasks.specs() if each.roles)
        raise InvalidInput(
            f"Models for {body.task} are not made of others; pipelines are for: {known}.",
            param="task",
        )
    told = ", ".join(role.name for role in spec.roles)
    for name in body.parts:
        if name not in {role.name for role in spec.roles}:
            raise InvalidInput(
                f"A pipeline for {body.task} has no part {name!r}; its parts: {told}.",
                param=f"parts.{name}",
            )
    for role in spec.roles:
        if role.required and role.name not in body.parts:
            raise InvalidInput(
                f"A pipeline for {body.task} needs a {role.name}, which {role.does}: a model for "
                f"{' or '.join(role.tasks)}.",
                param=f"parts.{role.name}",
            )
    return [role for role in spec.roles if role.name in body.parts]


def check_part(role: Role, version: ModelVersion) -> None:
    """Raise InvalidInput for a model that cannot have this role."""
    manifest, param = version.manifest, f"parts.{role.name}"
    if manifest.parts:
        raise InvalidInput(
            f"{version.ref} is a pipeline itself; a part of one is a single model.",
            hint=f"Its own parts: {', '.join(part.model for part in manifest.parts)}.",
            param=param,
        )
    if manifest.task not in role.tasks:
        raise InvalidInput(
            f"The {role.name} must be a model for {' or '.join(role.tasks)}; {version.ref} is one "
            f"for {manifest.task}.",
            param=param,
        )
    if manifest.upstream is not None:
        raise InvalidInput(
            f"{version.ref} runs at {manifest.upstream.url}; parts are served here.", param=param
        )
    if ENGINES[manifest.engine].worker != "arrays":
        raise InvalidInput(
            f"{version.ref} is served by the engine {manifest.engine}, which is no part of a "
            "pipeline.",
            param=param,
        )


def choose_files(
    version: ModelVersion, setting: str
) -> tuple[VariantName | None, tuple[FileRef, ...]]:
    """What serves a part: the compressed variant that would be served by itself, and its files."""
    engine = ENGINES[version.manifest.engine]
    variant: VariantName | None = None
    if engine.variants and version.variants:
        variant, _ = choose_variant(version, setting, needed=False)
    top = f"{VARIANTS}/{variant}/" if variant else f"{engine.folder}/"
    return variant, tuple(file for file in version.files if file.path.startswith(top))


def part_of(role: str, version: ModelVersion, variant: VariantName | None) -> Part:
    """What a pipeline keeps of the version that it is made of."""
    manifest = version.manifest
    return Part(
        role=role,
        model=version.ref,
        task=manifest.task,
        framework=manifest.framework,
        signature=manifest.signature,
        num_parameters=manifest.num_parameters,
        engine=manifest.engine,
        engine_reason=manifest.engine_reason,
        variant=variant,
        parity=version.parity,
    )


def manifest_of(body: PipelineBody, parts: Mapping[str, Part], signature: Signature) -> Manifest:
    """What is known of a pipeline."""
    made = tuple(parts.values())
    manifest = Manifest(
        name=body.name,
        task=body.task,
        framework="pipeline",
        signature=signature,
        num_parameters=sum(part.num_parameters for part in made),
        framework_version=f"of {len(made)} models",
        engine="pipeline",
        lineage=Lineage(origin="pipeline", parent=", ".join(part.model for part in made)),
        parts=made,
    )
    return msgspec.structs.replace(manifest, card=pipeline_card(manifest, body.card))
