"""What the Open Inference Protocol and Triton's extensions tell of models, over HTTP and gRPC.

Source: the protocol's metadata, and Triton's model configuration, statistics and model repository
extensions as `tritonclient` reads them. Both doors call these functions and only write the answer.
"""

from typing import Literal

import msgspec

import lmaas
from lmaas.codecs.tensor import DATATYPES
from lmaas.errors import InvalidInput
from lmaas.service import Service
from lmaas.types import ModelVersion, Record, TensorSpec

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")


class ServerMetadata(Record, frozen=True, kw_only=True):
    """Who answers, and which extensions of the protocol it knows."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(Record, frozen=True, kw_only=True):
    """An input or output; -1 in a shape is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(Record, frozen=True, kw_only=True):
    """A model's versions, inputs and outputs."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class TensorConfig(Record, frozen=True, kw_only=True):
    """An input or output, without its batch axis where requests are joined."""

    name: str
    data_type: str
    dims: tuple[int, ...]


class DynamicBatching(Record, frozen=True):
    """Requests are joined."""


class ModelConfig(Record, frozen=True, kw_only=True, omit_defaults=True):
    """How a model is served; `max_batch_size` 0: its requests are not joined."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: tuple[TensorConfig, ...]
    output: tuple[TensorConfig, ...]
    dynamic_batching: DynamicBatching | msgspec.UnsetType = msgspec.UNSET


class Duration(Record, frozen=True):
    """How many, and how long in all, in nanoseconds."""

    count: int
    ns: int


class InferenceStatistics(Record, frozen=True, kw_only=True):
    """Calls that were answered, and calls that failed."""

    success: Duration
    fail: Duration


class ModelStatistics(Record, frozen=True, kw_only=True):
    """What a version did since the server's start: samples, and engine calls that ran them."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics


class StatisticsList(Record, frozen=True):
    """The statistics of one version, or of the latest of each model."""

    model_stats: list[ModelStatistics]


class IndexBody(Record, frozen=True):
    """Which models are listed: all, or those that are ready."""

    ready: bool | None = None
    repository_name: str | None = None


class IndexEntry(Record, frozen=True, kw_only=True):
    """The latest version of a model. It is ready unless it could not be loaded."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


def server_metadata() -> ServerMetadata:
    """Name, version and extensions of this server."""
    return ServerMetadata(name="lmaas", version=lmaas.__version__, extensions=EXTENSIONS)


async def metadata(service: Service, tenant: str, ref: str) -> ModelMetadata:
    """A model's versions, inputs and outputs. Raises ModelNotFound."""
    version = await service.find(tenant, ref)
    versions = await service.read(service.catalog.versions, tenant, version.name)
    signature = version.manifest.signature
    return ModelMetadata(
        name=version.name,
        versions=tuple(str(v.version) for v in versions),
        platform=version.manifest.engine,
        inputs=tuple(map(_tensor, signature.inputs)),
        outputs=tuple(map(_tensor, signature.outputs)),
    )


async def config(service: Service, tenant: str, ref: str) -> ModelConfig:
    """How a model is served. Raises ModelNotFound."""
    version = await service.find(tenant, ref)
    signature = version.manifest.signature
    joined = signature.batch and bool(signature.inputs)

    def show(specs: tuple[TensorSpec, ...]) -> tuple[TensorConfig, ...]:
        return tuple(
            TensorConfig(
                name=spec.name,
                data_type=f"TYPE_{DATATYPES[spec.dtype].replace('BYTES', 'STRING')}",
                dims=spec.shape[1:] if joined else spec.shape,
            )
            for spec in specs
        )

    return ModelConfig(
        name=version.name,
        platform=version.manifest.engine,
        backend=version.manifest.engine,
        max_batch_size=service.settings.max_batch_size if joined else 0,
        input=show(signature.inputs),
        output=show(signature.outputs),
        dynamic_batching=DynamicBatching() if joined else msgspec.UNSET,
    )


async def statistics(service: Service, tenant: str, ref: str | None) -> StatisticsList:
    """What one version did, or the latest of each model. Raises ModelNotFound."""
    if ref is not None:
        return StatisticsList([_statistics(service, await service.find(tenant, ref))])
    return StatisticsList(
        [_statistics(service, v) for v in await service.read(service.catalog.latest, tenant)]
    )


async def index(service: Service, tenant: str, body: IndexBody) -> list[IndexEntry]:
    """The latest version of each model, and whether it can be called. Raises InvalidInput."""
    if body.repository_name:
        raise InvalidInput("There is one repository, without a name.", param="repository_name")
    failed = {s.model: s.reason for s in service.ps(tenant) if s.state == "failed"}
    entries = [
        IndexEntry(
            name=version.name,
            version=str(version.version),
            state="UNAVAILABLE" if version.ref in failed else "READY",
            reason=failed.get(version.ref, ""),
        )
        for version in await service.read(service.catalog.latest, tenant)
    ]
    return [entry for entry in entries if entry.state == "READY" or not body.ready]


def ref_of(name: str, version: str = "") -> str:
    """How the registry names a model of which a request may name the version."""
    return f"{name}:{version}" if version else name


def _statistics(service: Service, version: ModelVersion) -> ModelStatistics:
    calls = service.metrics.statistics.of(version)
    return ModelStatistics(
        name=version.name,
        version=str(version.version),
        last_inference=calls.last_ms,
        inference_count=calls.samples,
        execution_count=calls.batches,
        inference_stats=InferenceStatistics(
            success=Duration(calls.succeeded, calls.succeeded_ns),
            fail=Duration(calls.failed, calls.failed_ns),
        ),
    )


def _tensor(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=spec.name, datatype=DATATYPES[spec.dtype], shape=spec.shape)
