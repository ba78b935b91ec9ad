"""Models in, models changed, models out: push, pull, connect, publish, alias, remove."""

import asyncio
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa

from lmaas import tasks
from lmaas.config import Settings
from lmaas.errors import Conflict, Forbidden, InvalidInput, ModelNotFound, ModelRefused, NotFound
from lmaas.hub.api import own_token
from lmaas.hub.leftovers import hub_folder
from lmaas.hub.pull import check_task, download, locked
from lmaas.hub.repo import HubRef, default_name, parse_ref
from lmaas.placement.left import check_plain, needed_for, size
from lmaas.placement.waiting import to_end
from lmaas.registry.names import check_name
from lmaas.registry.store import Registry
from lmaas.runtime.parity import require
from lmaas.service.quota import Quota
from lmaas.service.workshop import Workshop
from lmaas.serving.http_client import check_url
from lmaas.serving.router import Router
from lmaas.types import (
    TENANT,
    ConnectBody,
    LanguageSpec,
    Lineage,
    Manifest,
    ModelVersion,
    ParityReport,
    PullProgress,
    PushOptions,
    Record,
    Signature,
)

Beside = Callable[[sa.Connection, str], None]
"""Writes what is to be true together with a version, whose reference it is given."""
POLL_S: Final = 0.1
PATIENCE_S: Final = 5.0
"""So long a pull waits for another runner of the same to let go."""
READ_WITH_OTHERS: Final = {".onnx", ".gguf"}
"""Files that others may lie beside: data, and tokenizers."""


class Verified(Record, frozen=True, kw_only=True):
    """What the verifying child says of a package."""

    manifest: Manifest
    parity: ParityReport


class Catalog:
    """The models of one home."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        router: Router,
        workshop: Workshop,
        quota: Quota,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._router = router
        self._workshop = workshop
        self._quota = quota

    def latest(self, tenant: str) -> list[ModelVersion]:
        """The latest version of every model of `tenant`, by name."""
        return self._registry.models(tenant)

    def versions(self, tenant: str, name: str) -> list[ModelVersion]:
        """All versions of one model, oldest first. Raises ModelNotFound."""
        return self._registry.versions(tenant, name)

    def get(self, tenant: str, ref: str) -> ModelVersion:
        """The version that `name`, `name:3` or `name@alias` refers to. Raises ModelNotFound."""
        return self._registry.resolve(tenant, ref)

    def file(self, tenant: str, ref: str, name: str) -> Path:
        """Where a trained version's learning curves are: `METRICS_FILE` or `CURVES_FILE`.

        Raises ModelNotFound, and NotFound for a version that has none.
        """
        version = self._registry.resolve(tenant, ref)
        for file in version.files:
            if file.role == "curves" and file.path == name:
                return self._registry.blobs.path(file.sha256)
        raise NotFound(f"{version.ref} has no {name}: it was not trained here.", param="model")

    async def push(
        self,
        tenant: str,
        path: Path,
        options: PushOptions | None = None,
        *,
        beside: Beside | None = None,
        log: Path | None = None,
    ) -> ModelVersion:
        """Register a model file or folder: imported and compiled in a sandboxed child.

        A package says all of itself; `options` may only give it another name. `beside` writes into
        the transaction that registers it, `log` gets what children print.
        """
        check_push(path, options)
        if options is not None and not is_package(path):
            return await self._import(tenant, path, options, origin="push", beside=beside, log=log)
        name = None if options is None else options.name
        task = None if options is None else options.task
        return await self.publish(tenant, path, name=name, task=task, beside=beside, log=log)

    async def pull(
        self,
        tenant: str,
        repo: str,
        *,
        name: str | None = None,
        task: str | None = None,
        token: str | None = None,
        keep: Callable[[], bool] = lambda: False,
        endpoint: str | None = None,
        heard: Callable[[PullProgress], None] = lambda _: None,
        beside: Beside | None = None,
        log: Path | None = None,
    ) -> ModelVersion:
        """Download `ORG/NAME[@revision]` from a hub and register it.

        `token` says to the hub who asks; without it, the server's own does, but only for the tenant
        `default` unless `share_hub_token` is set. `name` is the hub's NAME in lower case where left
        out, `task` what the configs tell.
        `endpoint` is another hub than that of `HF_ENDPOINT`; it is never sent the server's token.
        `heard` is told how far the download is, in a thread of its own. Broken off, the next pull
        continues it; once registered, the downloaded files go, unless they are to `keep`. `beside`
        writes into the transaction that registers it, `log` gets what children print. Raises
        Conflict while another pull of it runs, InsufficientQuota where the tenant's disk would be
        too full, and what `hub.pull.download` raises.
        """
        ref = parse_ref(repo)
        name = default_name(ref) if name is None else check_name(name)
        check_task(task)
        if token is None and endpoint is None and _may_share(self._settings, tenant):
            token = own_token()
        # What one tenant's token has brought is not there for another's.
        folder = hub_folder(self._settings.home_path, tenant)
        stop = threading.Event()
        async with _alone(folder, ref):
            work = asyncio.to_thread(
                download,
                ref,
                folder,
                token=token,
                task=task,
                heard=heard,
                stop=stop,
                endpoint=endpoint,
                check=partial(self._check_download, tenant, folder, ref),
            )
            pulled = await to_end(work, stop)
            options = PushOptions(name=name, task=pulled.task, card=pulled.card)
            path = Path(pulled.folder)
            version = await self._import(
                tenant,
                path,
                options,
                origin="pull",
                parent=pulled.source,
                beside=beside,
                log=log,
            )
            if not await asyncio.to_thread(keep):
                await to_end(asyncio.to_thread(shutil.rmtree, path.parent, ignore_errors=True))
        return version

    async def _import(
        self,
        tenant: str,
        path: Path,
        options: PushOptions,
        *,
        origin: str,
        parent: str | None = None,
        beside: Beside | None = None,
        log: Path | None = None,
    ) -> ModelVersion:
        async with self._workshop.scratch(origin) as scratch:
            reads = await asyncio.to_thread(needed_for, path)
            if path.suffix.lower() in READ_WITH_OTHERS:
                reads.append(path.absolute().parent)
            if options.sample is not None:
                reads += await asyncio.to_thread(needed_for, Path(options.sample))
            request = {
                "path": str(path.absolute()),
                "folder": str(scratch / "package"),
                "options": options,
                "base": None,
            }
            if options.base is not None:
                version = await self._router.find(tenant, options.base)
                check_files(version, "for an adapter", param="base")
                parent = version.ref
                unpack = asyncio.to_thread(
                    self._registry.unpack, version, scratch / "base", ("source",)
                )
                request["base"] = str(await to_end(unpack) / "source")
                reads.append(scratch / "base")
            importer = "lmaas.frameworks.importer"
            await self._workshop.child(importer, request, scratch, reads=reads, log=log)
            package = scratch / "package"
            return await self.publish(
                tenant, package, origin=origin, parent=parent, beside=beside, log=log
            )

    async def connect(self, tenant: str, body: ConnectBody) -> ModelVersion:
        """Register a model that another service runs. Nothing is sent to it yet.

        Raises InvalidInput for a URL that is none or leads to a machine's own credentials, and
        Forbidden for all tenants but the operator's: it names keys in the server's environment.
        """
        if tenant != TENANT:
            raise Forbidden(f"Only keys of the tenant {TENANT} connect models.")
        check_name(body.name)
        check_url(body.upstream.url)
        speaks = tasks.spec(body.task).generates
        taken = (("text",), ("text", "image")) if speaks else (("text",),)
        if body.upstream.accepts not in taken:
            raise InvalidInput(
                f"A model for {body.task} of another service accepts "
                f"{' or '.join(map(str, map(list, taken)))}; received "
                f"{list(body.upstream.accepts)}.",
                param="accepts",
            )
        manifest = Manifest(
            name=body.name,
            task=body.task,
            framework="upstream",
            signature=Signature(
                inputs=(),
                outputs=(),
                language=LanguageSpec(
                    architecture="upstream",
                    context_length=body.upstream.context_length,
                    vocabulary_size=0,
                    chat_template=speaks,
                    reasoning=speaks,
                    tools=speaks,
                    accepts=body.upstream.accepts,
                ),
            ),
            num_parameters=0,
            framework_version=body.upstream.dialect,
            lineage=Lineage(origin="connect", parent=body.upstream.url),
            upstream=body.upstream,
        )
        nothing = ParityReport(tolerance={}, checks=())
        async with self._workshop.scratch("connect") as empty:
            add = asyncio.to_thread(self._registry.add, tenant, manifest, nothing, empty)
            return await to_end(add)

    async def publish(
        self,
        tenant: str,
        folder: Path,
        *,
        origin: str | None = None,
        parent: str | None = None,
        name: str | None = None,
        task: str | None = None,
        beside: Beside | None = None,
        log: Path | None = None,
    ) -> ModelVersion:
        """Verify a package in a sandboxed child and register it.

        `name` renames it; another `task` than its own is refused. `beside` writes into the
        transaction that registers it, `log` gets what the child prints. Raises ParityFailed when
        the compiled model does not give the source's outputs.
        """
        async with self._workshop.scratch("verify") as scratch:
            await to_end(asyncio.to_thread(check_plain, folder))
            reply = await self._workshop.child(
                "lmaas.runtime.verify",
                {"folder": str(folder.absolute())},
                scratch,
                reads=(folder,),
                log=log,
            )
        verified = msgspec.json.decode(reply, type=Verified)
        manifest = verified.manifest
        if task not in (None, manifest.task):
            raise InvalidInput(
                f"The package's task is {manifest.task}; received {task}.", param="task"
            )
        if name is not None:
            manifest = msgspec.structs.replace(manifest, name=name)
        check_name(manifest.name)
        if manifest.upstream is not None:
            raise ModelRefused(
                "A package has its own files, and no upstream.",
                hint="`lmaas models connect` registers a model that another service runs.",
            )
        if manifest.parts:
            raise ModelRefused(
                "A package has one model; this one has the parts of a pipeline.",
                hint="Push its parts, and make the pipeline of them with `lmaas pipeline`.",
            )
        require(verified.parity)
        if origin is not None:
            told = manifest.lineage
            parent = parent or told.parent
            lineage = msgspec.structs.replace(told, origin=origin, parent=parent)
            manifest = msgspec.structs.replace(manifest, lineage=lineage)
        await to_end(asyncio.to_thread(self._check_quota, tenant, folder))
        add = asyncio.to_thread(
            self._registry.add, tenant, manifest, verified.parity, folder, beside
        )
        return await to_end(add)

    def _check_quota(self, tenant: str, folder: Path) -> None:
        self._quota.check(tenant, size(folder))

    def _check_download(self, tenant: str, folder: Path, ref: HubRef, total_bytes: int) -> None:
        """Other downloads that broke off count too, until they are continued or deleted."""
        others = [path for path in folder.iterdir() if path.is_dir() and path.name != ref.folder]
        self._quota.check(tenant, total_bytes + sum(map(size, others)))

    def set_alias(self, tenant: str, name: str, alias: str, version: int) -> ModelVersion:
        """Point `name@alias` at a version; callers of the alias move at once."""
        self._registry.set_alias(tenant, name, alias, version)
        return self._registry.resolve(tenant, f"{name}@{alias}")

    def remove_alias(self, tenant: str, name: str, alias: str) -> None:
        """Remove an alias. Raises NotFound."""
        self._registry.remove_alias(tenant, name, alias)

    def remove(self, tenant: str, ref: str, *, force: bool = False) -> list[ModelVersion]:
        """Delete one version (`name:3`) or a whole model (`name`) and free its files."""
        return self._registry.remove(tenant, ref, force=force)

    async def has(self, tenant: str, ref: str) -> bool:
        """Whether `ref` names a model."""
        try:
            return bool(await self._router.find(tenant, ref))
        except ModelNotFound:
            return False


def is_package(path: Path) -> bool:
    """Whether a folder says all of itself."""
    return (path / "manifest.json").is_file()


def check_push(path: Path, options: PushOptions | None) -> None:
    """Raise InvalidInput for what cannot be pushed so, as far as can be seen without reading it."""
    if options is not None:
        check_name(options.name)
    if not path.exists():
        raise InvalidInput(f"{path} does not exist.", param="path")
    if not is_package(path):
        if options is None:
            raise InvalidInput(
                f"{path.name} is no package, so it needs a name and a task.", param="options"
            )
        return
    given = (
        []
        if options is None
        else [
            name
            for name in options.__struct_fields__
            if name not in ("name", "task") and getattr(options, name)
        ]
    )
    if given:
        raise InvalidInput(
            f"{path.name} is a package and says its own {', '.join(sorted(given))}.",
            hint="Leave these options out.",
        )


def _may_share(settings: Settings, tenant: str) -> bool:
    """Whether the server's own token for the hub is a tenant's too."""
    return tenant == TENANT or settings.share_hub_token


@asynccontextmanager
async def _alone(folder: Path, ref: HubRef) -> AsyncIterator[None]:
    """The right to pull a repository. Raises Conflict where another keeps it."""
    deadline = time.monotonic() + PATIENCE_S
    held = ExitStack()
    while True:
        try:
            await asyncio.to_thread(held.enter_context, locked(folder, ref))
            break
        except Conflict:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(POLL_S)
    with held:
        yield


def check_files(version: ModelVersion, wanted_for: str, *, param: str) -> None:
    """Raise InvalidInput for a model that another service runs, and for a pipeline."""
    if version.manifest.parts:
        told = ", ".join(f"{part.role} {part.model}" for part in version.manifest.parts)
        raise InvalidInput(
            f"{version.ref} is a pipeline: it has no files {wanted_for}.",
            hint=f"Take a part of it, and make the pipeline again with the result: {told}.",
            param=param,
        )
    if version.manifest.upstream is not None:
        raise InvalidInput(
            f"{version.ref} runs at {version.manifest.upstream.url}: there are no files "
            f"{wanted_for}.",
            param=param,
        )
