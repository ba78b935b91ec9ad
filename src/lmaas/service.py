"""Every use case once, in plain Python. HTTP, CLI and the Python client are doors to it.

Knows registry, accounts, pool and sandbox; knows no transport. Async verbs run in the server's
event loop, or in a loop of their own where there is no server.
"""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from lmaas.accounts import usage
from lmaas.accounts.keys import Keys
from lmaas.accounts.ledger import Ledger
from lmaas.accounts.records import NO_LIMITS, Limits, ModelPrice, Price, UsageReport
from lmaas.accounts.terms import Terms
from lmaas.config import Settings
from lmaas.errors import (
    FULL,
    Conflict,
    Forbidden,
    InvalidInput,
    ModelNotFound,
    ModelRefused,
    NotFound,
    StorageFull,
)
from lmaas.hub.leftovers import leftovers
from lmaas.hub.pull import check_task, download, locked
from lmaas.hub.repo import default_name, parse_ref
from lmaas.job import (
    RESULT_FOLDER,
    Job,
    JobCheckpoint,
    JobState,
    StoredEvent,
)
from lmaas.jobs.claims import Claims
from lmaas.jobs.delivery import Deliverer
from lmaas.jobs.process import log_tail
from lmaas.jobs.results import CheckpointModels, Results
from lmaas.jobs.runner import Runner
from lmaas.jobs.store import Jobs
from lmaas.jobs.webhooks import Webhooks
from lmaas.language import Delta, GenerateRequest, Usage
from lmaas.placement import sandbox
from lmaas.placement.waiting import to_end
from lmaas.recipe import Recipe
from lmaas.registry.data_files import DataFile, Files
from lmaas.registry.fsck import FsckReport
from lmaas.registry.names import check_name
from lmaas.registry.responses import Responses
from lmaas.registry.store import Registry
from lmaas.registry.uploads import Upload, Uploads
from lmaas.runtime.cpu import gains_from_bf16, has_bf16
from lmaas.runtime.parity import require
from lmaas.serving.cache import ResponseCache, key_of
from lmaas.serving.generation import Answered, Generation, check_language, encode_request
from lmaas.serving.http_client import check_url
from lmaas.serving.metrics import Metrics
from lmaas.serving.outside import Outside
from lmaas.serving.plan import machine_budget_bytes
from lmaas.serving.pool import Pool
from lmaas.serving.precision import choose_precision
from lmaas.serving.router import Router
from lmaas.serving.variant import require_small_rise
from lmaas.types import (
    TENANT,
    Answer,
    CompressOptions,
    ConnectBody,
    FileRole,
    KeyRecord,
    LanguageSpec,
    Lineage,
    Manifest,
    ModelVersion,
    ParityReport,
    Payload,
    Progress,
    PullProgress,
    PushOptions,
    Record,
    Scope,
    Signature,
    Variant,
    VariantReport,
    WorkerStatus,
)

JOBS_FOLDER = "jobs"
DATA_FILES = ("train", "validation", "test")
FIRST_EVENTS = 20
"""Among so many a job tells what its data are."""
CHECK_MEMORY_BYTES = 4 << 30
"""Memory bound of the check of a data file: several times the longest line that is read."""
FOLLOW_S = 0.2
MAX_LOG_BYTES = 1 << 20


class Verified(Record, frozen=True, kw_only=True):
    """What the verifying child says of a package."""

    manifest: Manifest
    parity: ParityReport


class Predicted(NamedTuple):
    """An answer, the version that gave it, and headers that tell what is left of the limits."""

    version: ModelVersion
    answer: Answer
    headers: list[tuple[bytes, bytes]]


class Service:
    """One LMaaS home and everything that can be done with it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.home = settings.home_path
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.registry = Registry(self.home)
        self.keys = Keys(self.registry)
        self.terms = Terms(self.registry.database)
        self.ledger = Ledger(self.registry)
        self.responses = Responses(self.registry.database)
        self.metrics = Metrics()
        self.pool = Pool(settings, self.registry, self.metrics)
        self.router = Router(self.registry, self.pool)
        self.cache = ResponseCache(settings.response_cache_bytes, settings.redis_url)
        self.queue = Jobs(self.registry.database)
        self.files = Files(self.home)
        self.uploads = Uploads(self.home, self.files, settings.max_upload_bytes)
        self._outside = Outside(settings.webhook_allow)
        self.webhooks = Webhooks(self.registry.database, self._outside, http=settings.webhook_http)
        self._deliverer: Deliverer | None = None
        self.results = Results(self.home / JOBS_FOLDER, self.files)
        self._checkpoints = CheckpointModels(self.queue, self._has_model, self._publish_checkpoint)
        self._runner: Runner | None = None
        self._draining = False
        self._keeping: set[asyncio.Future[None]] = set()

    # Life of the service

    async def start(self) -> None:
        """Take the accounts and start the pool; pinned models begin to load."""
        await self.ledger.start()
        await self.pool.start()

    async def start_jobs(self) -> None:
        """Begin to run the queue's jobs and to tell of their ends.

        Only for who holds the home's lock.
        """
        settings = self.settings
        self._deliverer = Deliverer(
            self.registry.database, self._outside, http=settings.webhook_http
        )
        self._deliverer.start()
        await asyncio.to_thread(self.uploads.tidy)
        if not settings.max_running_jobs:
            return
        self._runner = Runner(
            self.home / JOBS_FOLDER,
            Claims(self.registry.database),
            self.registry.data_version,
            publish=self._publish_result,
            unpack=self._unpack_base,
            locate=self._locate_files,
            max_running=settings.max_running_jobs,
            max_per_tenant=settings.max_tenant_jobs,
            memory_bytes=settings.job_memory_bytes or machine_budget_bytes(),
        )
        await self._runner.start()

    async def drain(self, deadline_s: float) -> None:
        """Let running requests finish for at most `deadline_s`, then stop every worker.

        Running jobs write a checkpoint and are queued again.
        """
        self._draining = True
        try:
            jobs = self._runner.close(deadline_s) if self._runner is not None else asyncio.sleep(0)
            await asyncio.gather(self.pool.close(deadline_s), jobs)
            await self.cache.close()
        finally:
            if self._deliverer is not None:
                await self._deliverer.close()
            await self.ledger.close()

    def ready(self) -> bool:
        """Whether new requests are accepted and every loaded model has a live worker."""
        return self.pool.ready()

    def close(self) -> None:
        """Write what waits, and release the database."""
        self.responses.close()
        self.registry.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Service"]:
        """The service with its pool, for use without a server."""
        await self.start()
        try:
            yield self
        finally:
            await self.drain(self.settings.drain_timeout_s)

    # Models

    def models(self, tenant: str) -> list[ModelVersion]:
        """The latest version of every model of `tenant`, by name."""
        return self.registry.models(tenant)

    def versions(self, tenant: str, name: str) -> list[ModelVersion]:
        """All versions of one model, oldest first. Raises ModelNotFound."""
        return self.registry.versions(tenant, name)

    def model(self, tenant: str, ref: str) -> ModelVersion:
        """The version that `name`, `name:3` or `name@alias` refers to. Raises ModelNotFound."""
        return self.router.resolve(tenant, ref)

    def model_file(self, tenant: str, ref: str, name: str) -> Path:
        """Where a trained version's learning curves are: `METRICS_FILE` or `CURVES_FILE`.

        Raises ModelNotFound, and NotFound for a version that has none.
        """
        version = self.registry.resolve(tenant, ref)
        for file in version.files:
            if file.role == "curves" and file.path == name:
                return self.registry.blobs.path(file.sha256)
        raise NotFound(f"{version.ref} has no {name}: it was not trained here.", param="model")

    async def predict(
        self, key: KeyRecord, ref: str, payload: Payload, *, endpoint: str, request_id: str
    ) -> Predicted:
        """Run one request; also says which version answered.

        `endpoint` and `request_id` name the request in the usage ledger. Cancelling the awaiting
        task cancels the request, queued or running.
        """
        tenant = key.tenant
        await self._checkpoints.ensure(tenant, ref)
        if payload.format != "texts":
            counted = self.ledger.count(key, ref, endpoint, self.router.resolve)
            if counted is not None:
                with counted:
                    version, answer = await self.router.call(tenant, ref, payload)
                return Predicted(version, answer, [])
        version = self.router.resolve(tenant, ref)
        tokens = await self._text_tokens(key, version, ref, payload)
        with self.ledger.admit(
            key,
            request_id=request_id,
            endpoint=endpoint,
            model=version.ref,
            tokens=tokens,
            prompt_tokens=tokens,
        ) as admission:
            version, answer = await self.router.call(tenant, ref, payload)
            if answer.tokens:
                admission.usage = Usage(answer.tokens)
        return Predicted(version, answer, admission.headers)

    async def _text_tokens(
        self, key: KeyRecord, version: ModelVersion, ref: str, payload: Payload
    ) -> int:
        """Tokens of the texts, counted only for keys with limits: others need not wait for it."""
        if version.manifest.signature.language is None or not self.ledger.check(key, version.ref):
            return 0
        counting = msgspec.structs.replace(payload, count_only=True)
        return (await self.router.call(key.tenant, ref, counting))[1].tokens

    async def predict_here(self, tenant: str, ref: str, payload: Payload) -> Answer:
        """Run one request of whoever owns this home, without a key and without accounts."""
        return (await self.router.call(tenant, ref, payload))[1]

    async def generate(
        self,
        key: KeyRecord,
        ref: str,
        request: GenerateRequest,
        *,
        endpoint: str,
        request_id: str,
        cache: bool | None = None,
    ) -> Generation:
        """The answer of a language model, once its first token is there.

        `endpoint` and `request_id` name the request in the usage ledger. Raises InvalidInput,
        ModelNotFound, RateLimited, InsufficientQuota and whatever the model's worker raises.
        """
        await self._checkpoints.ensure(key.tenant, ref)
        version = self.router.resolve(key.tenant, ref)
        check_language(version)
        payload = Payload(format="generate", body=encode_request(request))
        kept_as = await self._cache_key(version, request, cache)
        ended = None if kept_as is None else await self.cache.get(kept_as)
        prompt, most = (0, 0) if ended else await self._most_tokens(key, ref, version, request)
        admission = self.ledger.admit(
            key,
            request_id=request_id,
            endpoint=endpoint,
            model=version.ref,
            tokens=most,
            prompt_tokens=prompt,
        )
        generation = Generation(
            version,
            admission.end,
            self.metrics,
            admission.delivered,
            None if kept_as is None else partial(self._keep, request),
        )
        generation.headers += admission.headers
        if kept_as is not None:
            self.metrics.cached(version.ref, hit=ended is not None)
            generation.headers.append((b"x-lmaas-cache", b"hit" if ended else b"miss"))
        if ended is not None:
            generation.replay(ended)
            return generation
        await generation.start(lambda to: self.router.generate(key.tenant, ref, payload, to))
        return generation

    async def _most_tokens(
        self, key: KeyRecord, ref: str, version: ModelVersion, request: GenerateRequest
    ) -> tuple[int, int]:
        """Tokens of the prompt, and the most that the request can use with its answers.

        Counted only for keys with limits: the others need not wait for it.
        """
        if not self.ledger.check(key, version.ref):
            return 0, 0
        prompt = await self._prompt_tokens(key, ref, request)
        answer = request.sampling.max_tokens
        if answer is None:
            spec = version.manifest.signature.language
            answer = max(0, spec.context_length - prompt) if spec is not None else 0
        return prompt, prompt + answer * request.choices

    async def _cache_key(
        self, version: ModelVersion, request: GenerateRequest, wanted: bool | None
    ) -> bytes | None:
        """Under which key the answer is kept; None when it is not."""
        if wanted is None:
            wanted = version.name in self.settings.cached_models and request.deterministic
        if not wanted:
            return None
        if not request.deterministic:
            raise InvalidInput(
                "Only deterministic answers can be cached.",
                hint="Set temperature to 0, or give a seed.",
                param="cache",
            )
        return key_of(version, await self.pool.form(version), request)

    def _keep(self, request: GenerateRequest, answered: Answered, deltas: list[Delta]) -> None:
        # Not under the key that was looked for: since then, another form may have taken over.
        key = key_of(answered.version, answered.form, request)
        task = asyncio.ensure_future(self.cache.put(key, answered.ended, deltas))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def count_tokens(self, key: KeyRecord, ref: str, request: GenerateRequest) -> int:
        """How many tokens the prompt of a request has for this model.

        Raises InvalidInput for a model of another service: only that can count.
        """
        await self._checkpoints.ensure(key.tenant, ref)
        version = self.router.resolve(key.tenant, ref)
        check_language(version)
        if version.manifest.upstream is not None:
            raise InvalidInput(
                f"{version.ref} runs at another service, which alone can count its tokens.",
                param="model",
            )
        return await self._prompt_tokens(key, ref, request)

    async def _prompt_tokens(self, key: KeyRecord, ref: str, request: GenerateRequest) -> int:
        body = encode_request(msgspec.structs.replace(request, count_only=True))
        _, answer = await self.router.call(key.tenant, ref, Payload(format="generate", body=body))
        return int(answer.body)

    async def push(
        self, tenant: str, path: Path, options: PushOptions | None = None
    ) -> ModelVersion:
        """Register a model file or folder: imported and compiled in a sandboxed child.

        A package says all of itself; `options` may only give it another name.
        """
        if options is not None:
            check_name(options.name)
        if not path.exists():
            raise InvalidInput(f"{path} does not exist.", param="path")
        if (path / "manifest.json").is_file():
            return await self._push_package(tenant, path, options)
        if options is None:
            raise InvalidInput(
                f"{path.name} is no package, so it needs a name and a task.", param="options"
            )
        return await self._import(tenant, path, options, origin="push")

    async def pull(
        self,
        tenant: str,
        repo: str,
        *,
        name: str | None = None,
        task: str | None = None,
        keep: bool = False,
        heard: Callable[[PullProgress], None] = lambda _: None,
    ) -> ModelVersion:
        """Download `ORG/NAME[@revision]` from a hub and register it.

        `name` is the hub's NAME in lower case where left out, `task` what the configs tell.
        `heard` is told how far the download is, in a thread of its own. Broken off, the next pull
        continues it; once registered, the downloaded files go, unless `keep`. Raises Conflict
        while another pull of it runs, and what `hub.pull.download` raises.
        """
        ref = parse_ref(repo)
        name = default_name(ref) if name is None else check_name(name)
        check_task(task)
        folder = self.home / "hub"
        stop = threading.Event()
        with locked(folder, ref):
            work = asyncio.to_thread(download, ref, folder, task=task, heard=heard, stop=stop)
            pulled = await to_end(work, stop)
            options = PushOptions(name=name, task=pulled.task, card=pulled.card)
            path = Path(pulled.folder)
            version = await self._import(tenant, path, options, origin="pull", parent=pulled.source)
            if not keep:
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
    ) -> ModelVersion:
        with self.scratch(origin) as scratch:
            request = {
                "path": str(path.absolute()),
                "folder": str(scratch / "package"),
                "options": options,
                "base": None,
            }
            if options.base is not None:
                version = self.registry.resolve(tenant, options.base)
                self._check_files(version, "for an adapter", param="base")
                parent = version.ref
                unpack = asyncio.to_thread(
                    self.registry.unpack, version, scratch / "base", ("source",)
                )
                request["base"] = str(await to_end(unpack) / "source")
            await self._child("lmaas.frameworks.importer", request, scratch)
            package = scratch / "package"
            return await self.publish_package(tenant, package, origin=origin, parent=parent)

    async def connect_upstream(self, tenant: str, body: ConnectBody) -> ModelVersion:
        """Register a model that another service runs. Nothing is sent to it yet.

        Raises InvalidInput for a URL that is none or leads to a machine's own credentials, and
        Forbidden for all tenants but the operator's: it names keys in the server's environment.
        """
        if tenant != TENANT:
            raise Forbidden(f"Only keys of the tenant {TENANT} connect models.")
        check_name(body.name)
        check_url(body.upstream.url)
        speaks = body.task == "text-generation"
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
                ),
            ),
            num_parameters=0,
            framework_version=body.upstream.dialect,
            lineage=Lineage(origin="connect", parent=body.upstream.url),
            upstream=body.upstream,
        )
        nothing = ParityReport(tolerance={}, checks=())
        with self.scratch("connect") as empty:
            add = asyncio.to_thread(self.registry.add, tenant, manifest, nothing, empty)
            return await to_end(add)

    async def _push_package(
        self, tenant: str, folder: Path, options: PushOptions | None
    ) -> ModelVersion:
        if options is None:
            return await self.publish_package(tenant, folder)
        given = {
            name: getattr(options, name)
            for name in options.__struct_fields__
            if name not in ("name", "task") and getattr(options, name)
        }
        if given:
            raise InvalidInput(
                f"{folder.name} is a package and says its own {', '.join(sorted(given))}.",
                hint="Leave these options out.",
            )
        return await self.publish_package(tenant, folder, name=options.name, task=options.task)

    async def publish_package(
        self,
        tenant: str,
        folder: Path,
        *,
        origin: str | None = None,
        parent: str | None = None,
        name: str | None = None,
        task: str | None = None,
        beside: Callable[[sa.Connection, str], None] | None = None,
    ) -> ModelVersion:
        """Verify a package in a sandboxed child and register it.

        `name` renames it; another `task` than its own is refused. `beside` writes into the
        transaction that registers it. Raises ParityFailed when the compiled model does not give
        the source's outputs.
        """
        with self.scratch("verify") as scratch:
            reply = await self._child(
                "lmaas.runtime.verify", {"folder": str(folder.absolute())}, scratch
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
        require(verified.parity)
        if origin is not None:
            told = manifest.lineage
            parent = parent or told.parent
            lineage = msgspec.structs.replace(told, origin=origin, parent=parent)
            manifest = msgspec.structs.replace(manifest, lineage=lineage)
        add = asyncio.to_thread(
            self.registry.add, tenant, manifest, verified.parity, folder, beside
        )
        return await to_end(add)

    async def compress(
        self,
        tenant: str,
        ref: str,
        options: CompressOptions,
        heard: Callable[[Progress], None] = lambda _: None,
    ) -> Variant:
        """Make a smaller form of a language model, measure it, and register it.

        `heard` is told how far it is, in a thread of its own. Where it is the best form that the
        setting `variant` allows, it takes over from a loaded one within seconds. Raises
        ParityFailed, with nothing registered, when the perplexity rises by more than
        `options.max_drop`.
        """
        version = self.router.resolve(tenant, ref)
        spec = version.manifest.signature.language
        if version.manifest.task != "text-generation" or spec is None:
            raise InvalidInput(
                f"{version.ref} is a model for {version.manifest.task}; compressed are models for "
                "text-generation.",
                param="ref",
            )
        self._check_files(version, "to compress", param="ref")
        if not version.compiled_bytes:
            raise InvalidInput(
                f"{version.ref} was not compiled: "
                f"{version.manifest.lineage.recipe.get('not_compiled')}",
                hint="Only compiled models are compressed.",
                param="ref",
            )
        precision, _ = choose_precision(
            self.settings.precision,
            model=version.ref,
            has_bf16=has_bf16(),
            gains=gains_from_bf16(),
            parity=version.parity,
            compiled_bytes=version.compiled_bytes,
        )
        with self.scratch("compress") as scratch:
            package, target = scratch / "package", scratch / "variant"
            # Only bf16 is made from the source; the others from what was compiled.
            roles: tuple[FileRole, ...] = ("compiled",)
            if options.to == "bf16":
                roles += ("source",)
            await to_end(asyncio.to_thread(self.registry.unpack, version, package, roles))
            request = {
                "folder": str(package),
                "target": str(target),
                "progress": str(scratch / sandbox.PROGRESS),
                "context_length": spec.context_length,
                "precision": precision,
                "options": options,
            }
            reply = await self._child(
                "lmaas.compression.weights",
                request,
                scratch,
                lambda line: heard(msgspec.json.decode(line, type=Progress)),
            )
            report = msgspec.json.decode(reply, type=VariantReport)
            require_small_rise(version.ref, options.to, report)
            stored = await to_end(
                asyncio.to_thread(self.registry.add_variant, version, options.to, report, target)
            )
        return next(variant for variant in stored.variants if variant.name == options.to)

    def set_alias(self, tenant: str, name: str, alias: str, version: int) -> ModelVersion:
        """Point `name@alias` at a version; callers of the alias move at once."""
        self.registry.set_alias(tenant, name, alias, version)
        return self.registry.resolve(tenant, f"{name}@{alias}")

    def remove_alias(self, tenant: str, name: str, alias: str) -> None:
        """Remove an alias. Raises NotFound."""
        self.registry.remove_alias(tenant, name, alias)

    def remove(self, tenant: str, ref: str, *, force: bool = False) -> list[ModelVersion]:
        """Delete one version (`name:3`) or a whole model (`name`) and free its files."""
        return self.registry.remove(tenant, ref, force=force)

    # Workers

    def ps(self, tenant: str) -> list[WorkerStatus]:
        """The workers that hold models of `tenant`."""
        return [status for status in self.pool.status() if status.tenant == tenant]

    async def load_model(self, tenant: str, ref: str) -> ModelVersion:
        """Load a model before its first call; a checkpoint of a job becomes one."""
        await self._checkpoints.ensure(tenant, ref)
        version = self.router.resolve(tenant, ref)
        await self.pool.load(version)
        return version

    async def stop_model(self, tenant: str, ref: str) -> ModelVersion:
        """Unload a model after its running requests. Raises NotFound when it is not loaded."""
        version = self.router.resolve(tenant, ref)
        if version.ref not in {status.model for status in self.ps(tenant)}:
            raise NotFound(
                f"{version.ref} is not loaded.", hint="`lmaas ps` lists the loaded models."
            )
        await self.pool.stop(tenant, version.ref)
        return version

    # Jobs

    def train(
        self,
        tenant: str,
        recipe: Recipe,
        *,
        key_id: str = "",
        priority: int = 0,
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> Job:
        """Put a training run into the queue; a server of this home runs it.

        The base model is what its reference names now. Raises InvalidInput, ModelNotFound.
        """
        check_name(recipe.name)
        if recipe.model.base is not None:
            base = self.registry.resolve(tenant, recipe.model.base)
            self._check_files(base, "to train on", param="model.base")
            model = msgspec.structs.replace(recipe.model, base=base.ref)
            recipe = msgspec.structs.replace(recipe, model=model)
        for split in DATA_FILES:
            given = getattr(recipe.data, split)
            if isinstance(given, str) and not self.files.is_id(given) and tenant != TENANT:
                raise Forbidden(
                    f"Only jobs of the tenant {TENANT} read paths of the server's machine.",
                    hint="Upload the file, and give its id.",
                    param=f"data.{split}",
                )
            if self.files.is_id(given):
                purpose = self.files.get(tenant, given).purpose
                if purpose != "fine-tune":
                    raise InvalidInput(
                        f"{given} is of the purpose {purpose}, no training data.",
                        param=f"data.{split}",
                    )
        plain = msgspec.to_builtins(recipe)
        return self.queue.add(
            tenant,
            key_id,
            "train",
            recipe.name,
            plain,
            priority=priority,
            metadata=metadata,
        )

    def jobs(
        self,
        tenant: str,
        *,
        after: str | None = None,
        limit: int = 20,
        state: JobState | None = None,
    ) -> list[Job]:
        """Jobs of `tenant`, newest first; `after` is the last id of the page before."""
        return self.queue.page(tenant, after=after, limit=limit, state=state)

    def job(self, tenant: str, job_id: str) -> Job:
        """One job with the checkpoints that are still there. Raises NotFound."""
        return self.results.present(self.queue.get(tenant, job_id))

    def trained_tokens(self, job: Job) -> int | None:
        """How many tokens an ended job has learned from, each as often as it was seen.

        None where data are no tokens, or nothing was learned.
        """
        if not job.ended or job.resolved is None or "step" not in job.progress:
            return None
        # The last step is told where it is evaluated, as it is before an early stop.
        whole = job.state == "succeeded" and job.resolved["early_stopping"] is None
        steps = job.progress["total_steps" if whole else "step"]
        for event in self.queue.events(job.tenant, job.id, limit=FIRST_EVENTS):
            if "tokens" in event.data:
                rows = event.data["rows"]
                per_epoch = -(-rows // min(rows, job.resolved["batch_size"]))
                return int(event.data["tokens"] * steps / per_epoch)
        return None

    def cancel_job(self, tenant: str, job_id: str) -> Job:
        """End a job within seconds. Raises NotFound, and Conflict for one that has ended."""
        return self.queue.cancel(tenant, job_id)

    def pause_job(self, tenant: str, job_id: str) -> Job:
        """Hold a job, with a checkpoint of where it is. Raises NotFound, Conflict."""
        return self.queue.pause(tenant, job_id)

    def resume_job(self, tenant: str, job_id: str) -> Job:
        """Put a paused job back into the queue. Raises NotFound, Conflict."""
        return self.queue.resume(tenant, job_id)

    def job_events(
        self, tenant: str, job_id: str, *, after: int = 0, limit: int = 100
    ) -> list[StoredEvent]:
        """A job's events in order, those after number `after`. Raises NotFound."""
        return self.queue.events(tenant, job_id, after=after, limit=limit)

    async def follow_job(
        self, tenant: str, job_id: str, *, after: int = 0
    ) -> AsyncIterator[StoredEvent]:
        """A job's events as they come, until it ends or is paused, or the service drains.

        Raises NotFound.
        """
        seen = -1
        while not self._draining:
            version = self.registry.data_version()
            if version != seen:
                seen = version
                job = self.queue.get(tenant, job_id)
                while events := self.queue.events(tenant, job_id, after=after, limit=1000):
                    after = events[-1].seq
                    for event in events:
                        yield event
                if job.ended or job.state == "paused":
                    return
            await asyncio.sleep(FOLLOW_S)

    def job_file(self, tenant: str, job_id: str, name: str) -> Path:
        """Where a job's learning curves are: `METRICS_FILE` or `CURVES_FILE`. Raises NotFound."""
        return self.results.path(self.queue.get(tenant, job_id), name)

    async def job_log(self, tenant: str, job_id: str) -> str:
        """The end of what a job's process has printed. Raises NotFound."""
        self.queue.get(tenant, job_id)
        return await asyncio.to_thread(log_tail, self.home / JOBS_FOLDER / job_id, MAX_LOG_BYTES)

    async def _publish_result(
        self, job: Job, package: Path, succeed: Callable[[sa.Connection, str], None]
    ) -> None:
        with self.scratch("results") as scratch:
            await to_end(asyncio.to_thread(self.results.keep, job, package, scratch))
        try:
            await self.publish_package(
                job.tenant, package, origin="train", name=job.name, beside=succeed
            )
        except BaseException:
            # Cut off, it may have been registered all the same.
            if self.queue.get(job.tenant, job.id).state != "succeeded":
                self.results.drop(job)
            raise

    async def _publish_checkpoint(self, job: Job, point: JobCheckpoint) -> None:
        """Register a checkpoint as a model, without training."""
        with self.scratch("checkpoint") as scratch:
            folder, base = scratch / "run", scratch / "base"
            await to_end(asyncio.to_thread(self.results.take, job, point, folder))
            has_base = await to_end(asyncio.to_thread(self._unpack_base, job, base))
            recipe = {**(job.resolved or job.recipe), "name": point.model}
            located = self._locate_files(msgspec.structs.replace(job, recipe=recipe))
            request = {
                "folder": str(folder),
                "recipe": located,
                "job": job.id,
                "base": str(base) if has_base else None,
            }
            await self._child("lmaas.training.export", request, scratch)
            await self.publish_package(job.tenant, folder / RESULT_FOLDER, origin="train")

    def _has_model(self, tenant: str, name: str) -> bool:
        try:
            return bool(self.router.resolve(tenant, name))
        except ModelNotFound:
            return False

    def last_job_events(
        self, tenant: str, job_id: str, limit: int, *, before: int | None = None
    ) -> list[StoredEvent]:
        """The newest `limit` events of those before number `before`, in order."""
        return self.queue.last_events(tenant, job_id, limit, before=before)

    # Data files

    async def add_file(self, tenant: str, source: Path) -> DataFile:
        """Check a file of this home's device and take it over as training data.

        Raises InvalidInput, with the line, for what no task can read.
        """
        stop = threading.Event()
        await to_end(asyncio.to_thread(self._check_file, source, stop), stop)
        add = asyncio.to_thread(self.files.add, tenant, source, purpose="fine-tune")
        return await to_end(add)

    async def complete_upload(
        self, tenant: str, upload_id: str, part_ids: Sequence[str], *, md5: str | None = None
    ) -> Upload:
        """Make a data file of an upload's parts. Raises NotFound, Conflict, InvalidInput."""
        stop = threading.Event()
        with self.scratch("upload") as scratch:
            work = partial(
                self.uploads.complete,
                tenant,
                upload_id,
                part_ids,
                scratch,
                md5=md5,
                check=partial(self._check_file, stop=stop),
            )
            return await to_end(asyncio.to_thread(work), stop)

    def _check_file(self, path: Path, stop: threading.Event) -> None:
        """Look through a data file in a sandboxed child."""
        with self.scratch("check") as scratch:
            self._run_child(
                "lmaas.data.checking",
                {"path": str(path)},
                scratch,
                memory_bytes=min(CHECK_MEMORY_BYTES, self.settings.compile_memory_bytes),
                work=f"Checking {path.name}",
                stop=stop,
            )

    def list_files(self, tenant: str) -> list[DataFile]:
        """All data files of `tenant`, newest first."""
        return self.files.list(tenant)

    def file(self, tenant: str, file_id: str) -> DataFile:
        """What is known of a data file. Raises NotFound."""
        return self.files.get(tenant, file_id)

    def file_path(self, tenant: str, file_id: str) -> Path:
        """Where a data file's content is. Raises NotFound."""
        return self.files.path(tenant, file_id)

    def remove_file(self, tenant: str, file_id: str) -> DataFile:
        """Delete a data file. Raises NotFound, and Conflict while a job needs it."""
        waiting: tuple[JobState, ...] = ("queued", "running", "paused")
        for state in waiting:
            for job in self.queue.page(tenant, state=state, limit=1000):
                if file_id in [job.recipe["data"].get(split) for split in DATA_FILES]:
                    raise Conflict(f"The job {job.id} needs {file_id}.", param="file")
        return self.files.remove(tenant, file_id)

    def _locate_files(self, job: Job) -> dict[str, Any]:
        data = dict(job.recipe["data"])
        for split in DATA_FILES:
            if self.files.is_id(given := data.get(split)):
                data[split] = str(self.files.path(job.tenant, given))
        return {**job.recipe, "data": data}

    @staticmethod
    def _check_files(version: ModelVersion, wanted_for: str, *, param: str) -> None:
        """Refuse a model that another service runs."""
        if version.manifest.upstream is not None:
            raise InvalidInput(
                f"{version.ref} runs at {version.manifest.upstream.url}: there are no files "
                f"{wanted_for}.",
                param=param,
            )

    def _unpack_base(self, job: Job, folder: Path) -> bool:
        """The package of the version that a job trains on, into `folder`."""
        ref = job.recipe.get("model", {}).get("base")
        if ref is None:
            return False
        version = self.registry.resolve(job.tenant, ref)
        self.registry.unpack(version, folder, ("source", "compiled", "sample"))
        (folder / "manifest.json").write_bytes(msgspec.json.encode(version.manifest))
        return True

    # Keys

    def authenticate(self, text: str) -> KeyRecord:
        """The key that `text` is. Raises Unauthorized."""
        return self.keys.check(text)

    def create_key(
        self, tenant: str, name: str, scopes: Sequence[Scope], limits: Limits = NO_LIMITS
    ) -> tuple[KeyRecord, str]:
        """A new key and, this one time, its text. The first key of a tenant makes the tenant."""
        check_name(tenant, what="tenant name")
        self.terms.check(limits)
        record, text = self.keys.create(tenant, name, tuple(scopes))
        if limits != NO_LIMITS:
            self.terms.set_limits(tenant, record.id, limits)
        return record, text

    def list_keys(self, tenant: str) -> list[KeyRecord]:
        """All keys of `tenant`, revoked ones too, without their secrets."""
        return self.keys.list(tenant)

    def revoke_key(self, tenant: str, key_id: str) -> KeyRecord:
        """End a key now. Raises NotFound."""
        for record in self.keys.list(tenant):
            if record.id == key_id:
                self.keys.revoke(key_id)
                return record
        raise NotFound(f"No key {key_id!r}.", hint="`lmaas keys list` shows the ids.")

    # Accounts

    def limits(self, tenant: str, key_id: str | None) -> Limits:
        """The limits of a key, or (None) of all keys of `tenant` together. Raises NotFound."""
        return self.terms.limits(tenant, key_id)

    def set_limits(self, tenant: str, key_id: str | None, limits: Limits) -> Limits:
        """Replace the limits of a key, or (None) of all keys of `tenant` together."""
        return self.terms.set_limits(tenant, key_id, limits)

    def prices(self, tenant: str) -> list[ModelPrice]:
        """What the models of `tenant` cost, by name."""
        return self.terms.prices(tenant)

    def set_price(self, tenant: str, model: str, price: Price) -> ModelPrice:
        """What all versions of a model cost from now on; a price of 0 makes it free."""
        return self.terms.set_price(tenant, model, price)

    async def usage(
        self,
        tenant: str,
        *,
        start: str | None = None,
        end: str | None = None,
        by: Sequence[str] = (),
        key_id: str | None = None,
    ) -> UsageReport:
        """What was used from day `start` to day `end` (UTC), by any of key, model and day.

        In the server, up to the last request; in another process, up to a few seconds ago.
        """

        def ask() -> UsageReport:
            self.ledger.flush()
            database = self.registry.database
            return usage.report(database, tenant, start=start, end=end, by=by, key_id=key_id)

        return await asyncio.to_thread(ask)

    # Upkeep

    def fsck(self, *, repair: bool = False) -> FsckReport:
        """Check every stored file against its digest and every row against its files.

        With `repair`, what no version names and no pull is at is deleted.
        """
        report = self.registry.check(repair=repair)
        downloads = leftovers(self.home / "hub", remove=repair)
        return msgspec.structs.replace(report, downloads=downloads)

    @contextmanager
    def scratch(self, purpose: str) -> Iterator[Path]:
        """A private folder on the home's device, removed at the end."""
        parent = self.home / "tmp"
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=parent))
        try:
            yield folder
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise StorageFull(
                f"No space left while working in {parent}: {error.strerror}.",
                hint="Free space on the device of LMAAS_HOME and try again.",
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _child(
        self,
        module: str,
        request: object,
        scratch: Path,
        heard: Callable[[bytes], None] | None = None,
    ) -> bytes:
        stop = threading.Event()
        work = partial(self._run_child, module, request, scratch, stop=stop, heard=heard)
        return await to_end(asyncio.to_thread(work), stop)

    def _run_child(
        self,
        module: str,
        request: object,
        scratch: Path,
        *,
        memory_bytes: int | None = None,
        work: str = "Compiling",
        stop: threading.Event,
        heard: Callable[[bytes], None] | None = None,
    ) -> bytes:
        return sandbox.run_child(
            module,
            msgspec.json.encode(request),
            scratch=scratch,
            timeout_s=self.settings.compile_timeout_s,
            memory_bytes=memory_bytes or self.settings.compile_memory_bytes,
            disk_bytes=self.settings.compile_disk_bytes,
            work=work,
            stop=stop,
            heard=heard,
        )
