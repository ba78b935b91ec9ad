"""The table of all routes, and the two that describe it."""

from typing import Any

import msgspec

from lmaas.accounts.records import Limits, ModelPrice, Price, UsageReport
from lmaas.codecs.json import CallBody
from lmaas.codecs.tensor import InferRequest
from lmaas.http import (
    admin,
    chat,
    completions,
    compression,
    embeddings,
    files,
    fine_tuning,
    health,
    huggingface,
    huggingface_text,
    jobs,
    messages,
    messages_models,
    oip,
    oip_models,
    ollama,
    ollama_models,
    openai,
    openapi,
    rerank,
    responses,
    upload,
    uploads,
    usage,
    webhooks,
)
from lmaas.http.chat_answer import ChatCompletion, ChatCompletionChunk
from lmaas.http.completions_answer import Completion
from lmaas.http.exchange import Exchange
from lmaas.http.messages_answer import AnswerMessage, TokenCount
from lmaas.http.messages_body import CountBody, MessagesBody
from lmaas.http.messages_models import ModelInfo, ModelPage
from lmaas.http.ollama_answer import OllamaAnswer
from lmaas.http.ollama_body import OllamaChat, OllamaGenerate
from lmaas.http.responses_answer import Deleted, ItemList, Response
from lmaas.http.responses_body import ResponsesBody
from lmaas.http.route import Operation, Route
from lmaas.job import Job, StoredEvent, Webhook, WebhookDelivery
from lmaas.service import Service
from lmaas.tasks.labels import Label
from lmaas.tasks.tabular import tables
from lmaas.types import (
    CompressOptions,
    ConnectBody,
    KeyRecord,
    ModelVersion,
    PullBody,
    Variant,
    WorkerStatus,
)

OCTETS = "application/octet-stream"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
STATISTICS = oip_models.StatisticsList


async def describe(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """This description of all routes, as OpenAPI 3.1."""
    told = msgspec.json.encode(openapi.document(ROUTES))
    exchange.send(await compression.shrink(exchange, told))


async def page(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The same as a page; a browser gives the key as the password of any user."""
    body = openapi.page(openapi.document(ROUTES))
    exchange.extra += openapi.PAGE_HEADERS
    kind = b"text/html; charset=utf-8"
    exchange.send(await compression.shrink(exchange, body), kind=kind)


CHAT = Operation(chat.create, (chat.ChatBody,), (ChatCompletion, ChatCompletionChunk, EVENTS))

ROUTES = [
    *(
        Route(
            path,
            {
                "POST": Operation(
                    huggingface.infer,
                    ("image/*", CallBody, huggingface_text.TextBody, tables.TableCall),
                    (list[Label], dict[str, Any], list[huggingface_text.Generated], EVENTS),
                )
            },
        )
        for path in ("/models/{ref}", "/models/{ref}/pipeline/{task}")
    ),
    Route(
        "/v2/models/{ref}/infer",
        {"POST": Operation(oip.infer, (InferRequest, OCTETS), (dict[str, Any], OCTETS))},
    ),
    Route(
        "/v2/models/{ref}/versions/{version}/infer",
        {"POST": Operation(oip.infer, (InferRequest, OCTETS), (dict[str, Any], OCTETS))},
    ),
    Route("/v1/chat/completions", {"POST": CHAT}),
    Route("/models/{ref}/v1/chat/completions", {"POST": CHAT}),
    Route(
        "/v1/completions",
        {
            "POST": Operation(
                completions.create, (completions.CompletionBody,), (Completion, EVENTS)
            )
        },
    ),
    Route(
        "/v1/embeddings",
        {
            "POST": Operation(
                embeddings.create, (embeddings.EmbeddingsBody,), (embeddings.Embeddings,)
            )
        },
    ),
    *(
        Route(path, {"POST": Operation(rerank.create, (rerank.RerankBody,), (rerank.Reranked,))})
        for path in ("/v1/rerank", "/rerank")
    ),
    Route(
        "/v1/messages",
        {"POST": Operation(messages.create, (MessagesBody,), (AnswerMessage, EVENTS))},
    ),
    Route(
        "/v1/messages/count_tokens",
        {"POST": Operation(messages.count_tokens, (CountBody,), (TokenCount,))},
    ),
    Route(
        "/v1/responses",
        {"POST": Operation(responses.create, (ResponsesBody,), (Response, EVENTS))},
    ),
    Route(
        "/v1/responses/{id}",
        {
            "GET": Operation(responses.get, (), (Response,)),
            "DELETE": Operation(responses.delete, (), (Deleted,)),
        },
    ),
    Route(
        "/v1/responses/{id}/input_items",
        {
            "GET": Operation(
                responses.input_items, (), (ItemList,), query=("after", "limit", "order")
            )
        },
    ),
    Route(
        "/v1/models",
        {
            "GET": Operation(
                openai.models, (), (openai.ModelList, ModelPage), query=messages_models.QUERY
            )
        },
    ),
    Route(
        "/v1/models/{ref}",
        {"GET": Operation(openai.model, (), (openai.ModelObject, ModelInfo))},
    ),
    Route("/v2", {"GET": Operation(oip.server, (), (oip_models.ServerMetadata,))}),
    Route("/v2/health/live", {"GET": Operation(health.live, (), (dict[str, bool],))}),
    Route("/v2/health/ready", {"GET": Operation(health.ready, (), (dict[str, bool],))}),
    Route("/v2/models/stats", {"GET": Operation(oip.statistics, (), (STATISTICS,))}),
    *(
        Route(f"{model}{rest}", {"GET": operation})
        for model in ("/v2/models/{ref}", "/v2/models/{ref}/versions/{version}")
        for rest, operation in (
            ("", Operation(oip.model, (), (oip_models.ModelMetadata,))),
            ("/ready", Operation(oip.model_ready, (), (dict[str, bool],))),
            ("/config", Operation(oip.config, (), (oip_models.ModelConfig,))),
            ("/stats", Operation(oip.statistics, (), (STATISTICS,))),
        )
    ),
    Route(
        "/v2/repository/index",
        {"POST": Operation(oip.index, (oip_models.IndexBody,), (list[oip_models.IndexEntry],))},
    ),
    Route(
        "/v2/repository/models/{ref}/load",
        {"POST": Operation(oip.load, (oip.ControlBody,), (dict[str, Any],))},
    ),
    Route(
        "/v2/repository/models/{ref}/unload",
        {"POST": Operation(oip.unload, (oip.ControlBody,), (dict[str, Any],))},
    ),
    Route("/health/live", {"GET": Operation(health.live, (), (dict[str, bool],))}),
    Route("/health/ready", {"GET": Operation(health.ready, (), (dict[str, bool],))}),
    Route("/metrics", {"GET": Operation(health.metrics, (), ("text/plain",))}),
    Route("/openapi.json", {"GET": Operation(describe, (), (dict[str, Any],))}),
    Route("/docs", {"GET": Operation(page, (), ("text/html",))}),
    Route("/api/workers", {"GET": Operation(admin.ps, (), (list[WorkerStatus],))}),
    Route("/api/whoami", {"GET": Operation(admin.whoami, (), (KeyRecord,))}),
    Route(
        "/api/models",
        {
            "GET": Operation(admin.models, (), (list[ModelVersion],)),
            "POST": Operation(
                upload.publish, ("multipart/form-data",), (ModelVersion,), status=201
            ),
        },
    ),
    Route(
        "/api/models/{ref}",
        {
            "GET": Operation(admin.model, (), (ModelVersion,)),
            "DELETE": Operation(admin.remove, (), (list[ModelVersion],), query=("force",)),
        },
    ),
    Route(
        "/api/models/{ref}/versions", {"GET": Operation(admin.versions, (), (list[ModelVersion],))}
    ),
    Route("/api/models/{ref}/card", {"GET": Operation(admin.card, (), ("text/markdown",))}),
    Route("/api/models/{ref}/curves", {"GET": Operation(admin.curves, (), ("image/png",))}),
    Route("/api/models/{ref}/load", {"POST": Operation(admin.load, (), (ModelVersion,))}),
    Route("/api/pulls", {"POST": Operation(admin.pull, (PullBody,), (ModelVersion,), status=201)}),
    Route(
        "/api/upstreams",
        {"POST": Operation(admin.connect, (ConnectBody,), (ModelVersion,), status=201)},
    ),
    Route(
        "/api/models/{ref}/compress",
        {"POST": Operation(admin.compress, (CompressOptions,), (Variant,), status=201)},
    ),
    Route("/api/models/{ref}/stop", {"POST": Operation(admin.stop, (), (ModelVersion,))}),
    Route(
        "/api/models/{ref}/aliases/{alias}",
        {
            "PUT": Operation(admin.set_alias, (admin.AliasBody,), (ModelVersion,)),
            "DELETE": Operation(admin.remove_alias, (), (dict[str, str],)),
        },
    ),
    Route(
        "/api/keys",
        {
            "GET": Operation(admin.keys, (), (list[KeyRecord],)),
            "POST": Operation(admin.create_key, (admin.KeyBody,), (admin.NewKey,), status=201),
        },
    ),
    Route("/api/keys/{id}", {"DELETE": Operation(admin.revoke_key, (), (KeyRecord,))}),
    Route(
        "/v1/files",
        {
            "GET": Operation(files.page, (), (files.FileList,), query=files.LIST_QUERY),
            "POST": Operation(files.create, ("multipart/form-data",), (files.FileObject,)),
        },
    ),
    Route(
        "/v1/files/{id}",
        {
            "GET": Operation(files.get, (), (files.FileObject,)),
            "DELETE": Operation(files.delete, (), (files.DeletedFile,)),
        },
    ),
    Route("/v1/files/{id}/content", {"GET": Operation(files.content, (), (OCTETS,))}),
    Route(
        "/v1/uploads",
        {"POST": Operation(uploads.create, (uploads.UploadBody,), (uploads.UploadObject,))},
    ),
    Route("/v1/uploads/{id}", {"GET": Operation(uploads.get, (), (uploads.UploadObject,))}),
    Route(
        "/v1/uploads/{id}/parts",
        {"POST": Operation(uploads.add_part, ("multipart/form-data",), (uploads.UploadPart,))},
    ),
    Route(
        "/v1/uploads/{id}/complete",
        {"POST": Operation(uploads.complete, (uploads.CompleteBody,), (uploads.UploadObject,))},
    ),
    Route(
        "/v1/uploads/{id}/cancel",
        {"POST": Operation(uploads.cancel, (), (uploads.UploadObject,))},
    ),
    Route(
        "/v1/fine_tuning/jobs",
        {
            "GET": Operation(
                fine_tuning.page, (), (fine_tuning.JobPage,), query=fine_tuning.PAGE_QUERY
            ),
            "POST": Operation(
                fine_tuning.create, (fine_tuning.FineTuningBody,), (fine_tuning.FineTuningJob,)
            ),
        },
    ),
    Route(
        "/v1/fine_tuning/jobs/{id}",
        {"GET": Operation(fine_tuning.get, (), (fine_tuning.FineTuningJob,))},
    ),
    *(
        Route(
            f"/v1/fine_tuning/jobs/{{id}}/{verb.__name__}",
            {"POST": Operation(verb, (), (fine_tuning.FineTuningJob,))},
        )
        for verb in (fine_tuning.cancel, fine_tuning.pause, fine_tuning.resume)
    ),
    Route(
        "/v1/fine_tuning/jobs/{id}/checkpoints",
        {
            "GET": Operation(
                fine_tuning.checkpoints,
                (),
                (fine_tuning.CheckpointPage,),
                query=fine_tuning.PAGE_QUERY,
            )
        },
    ),
    Route(
        "/v1/fine_tuning/jobs/{id}/events",
        {
            "GET": Operation(
                fine_tuning.events,
                (),
                (fine_tuning.EventPage, EVENTS),
                query=fine_tuning.EVENTS_QUERY,
            )
        },
    ),
    Route(
        "/api/jobs",
        {
            "GET": Operation(jobs.page, (), (list[Job],), query=jobs.LIST_QUERY),
            "POST": Operation(jobs.create, (jobs.TrainBody,), (Job,), status=201),
        },
    ),
    Route("/api/recipes/schema", {"GET": Operation(jobs.schema, (), (dict[str, Any],))}),
    Route("/api/jobs/{id}", {"GET": Operation(jobs.get, (), (Job,))}),
    Route("/api/jobs/{id}/cancel", {"POST": Operation(jobs.cancel, (), (Job,))}),
    Route("/api/jobs/{id}/pause", {"POST": Operation(jobs.pause, (), (Job,))}),
    Route("/api/jobs/{id}/resume", {"POST": Operation(jobs.resume, (), (Job,))}),
    Route("/api/jobs/{id}/log", {"GET": Operation(jobs.log, (), (jobs.JobLog,))}),
    Route("/api/jobs/{id}/metrics", {"GET": Operation(jobs.metrics, (), ("text/csv",))}),
    Route("/api/jobs/{id}/curves", {"GET": Operation(jobs.curves, (), ("image/png",))}),
    Route(
        "/api/jobs/{id}/events",
        {"GET": Operation(jobs.events, (), (list[StoredEvent], EVENTS), query=jobs.EVENTS_QUERY)},
    ),
    Route(
        "/api/webhooks",
        {
            "GET": Operation(webhooks.page, (), (list[Webhook],)),
            "POST": Operation(
                webhooks.create, (webhooks.WebhookBody,), (webhooks.NewWebhook,), status=201
            ),
        },
    ),
    Route("/api/webhooks/{id}", {"DELETE": Operation(webhooks.delete, (), (Webhook,))}),
    Route(
        "/api/webhooks/{id}/deliveries",
        {
            "GET": Operation(
                webhooks.deliveries, (), (list[WebhookDelivery],), query=webhooks.DELIVERIES_QUERY
            )
        },
    ),
    Route(
        "/api/chat",
        {"POST": Operation(ollama.chat, (OllamaChat,), (OllamaAnswer, LINES))},
    ),
    Route(
        "/api/generate",
        {"POST": Operation(ollama.generate, (OllamaGenerate,), (OllamaAnswer, LINES))},
    ),
    Route(
        "/api/embed",
        {"POST": Operation(ollama.embed, (ollama.OllamaEmbed,), (ollama.OllamaVectors,))},
    ),
    Route(
        "/api/embeddings",
        {"POST": Operation(ollama.embeddings, (ollama.OllamaPrompt,), (ollama.OllamaVector,))},
    ),
    Route("/api/tags", {"GET": Operation(ollama_models.tags, (), (ollama_models.OllamaModels,))}),
    Route("/api/ps", {"GET": Operation(ollama_models.ps, (), (ollama_models.OllamaProcesses,))}),
    Route(
        "/api/version",
        {"GET": Operation(ollama_models.version, (), (ollama_models.OllamaVersion,))},
    ),
    Route(
        "/api/show",
        {
            "POST": Operation(
                ollama_models.show, (ollama_models.OllamaShow,), (ollama_models.OllamaShown,)
            )
        },
    ),
    Route(
        "/api/pull",
        {
            "POST": Operation(
                ollama_models.pull,
                (ollama_models.OllamaPull,),
                (ollama_models.OllamaStatus, LINES),
            )
        },
    ),
    Route("/v1/usage", {"GET": Operation(usage.usage, (), (UsageReport,), query=usage.QUERY)}),
    Route(
        "/api/keys/{id}/limits",
        {
            "GET": Operation(usage.limits, (), (Limits,)),
            "PUT": Operation(usage.set_limits, (Limits,), (Limits,)),
        },
    ),
    Route(
        "/api/limits",
        {
            "GET": Operation(usage.limits, (), (Limits,)),
            "PUT": Operation(usage.set_limits, (Limits,), (Limits,)),
        },
    ),
    Route("/api/prices", {"GET": Operation(usage.prices, (), (list[ModelPrice],))}),
    Route("/api/prices/{model}", {"PUT": Operation(usage.set_price, (Price,), (ModelPrice,))}),
]
