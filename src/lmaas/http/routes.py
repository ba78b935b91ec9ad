"""The table of all routes, and the two that describe it."""

from typing import Any

import msgspec

from lmaas.accounts.records import Limits, ModelPrice, Price, UsageReport
from lmaas.codecs.json import CallBody
from lmaas.codecs.tensor import InferRequest
from lmaas.http import (
    admin,
    audio,
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
    libretranslate,
    messages,
    messages_models,
    oip,
    oip_models,
    ollama,
    ollama_models,
    openai,
    openapi,
    realtime,
    rerank,
    responses,
    speech,
    upload,
    uploads,
    usage,
    webhooks,
)
from lmaas.http.audio_answer import TranscriptionJson, TranscriptionVerbose
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
from lmaas.speech_types import MEDIA_TYPES
from lmaas.tasks.labels import Label
from lmaas.tasks.tabular import tables
from lmaas.types import (
    CompressOptions,
    ConnectBody,
    KeyRecord,
    ModelVersion,
    PipelineBody,
    PullBody,
    Variant,
    WorkerStatus,
)

OCTETS = "application/octet-stream"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
SOUNDS = tuple(MEDIA_TYPES.values())
FORM = "multipart/form-data"
HEARD = (TranscriptionJson, TranscriptionVerbose, "text/plain", "text/vtt")
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
            "call",
            {
                "POST": Operation(
                    huggingface.infer,
                    (
                        "image/*",
                        CallBody,
                        huggingface_text.TextBody,
                        tables.TableCall,
                        speech.SpeechCall,
                    ),
                    (
                        list[Label],
                        dict[str, Any],
                        list[huggingface_text.Generated],
                        EVENTS,
                        *SOUNDS,
                    ),
                )
            },
        )
        for path in ("/models/{ref}", "/models/{ref}/pipeline/{task}")
    ),
    Route(
        "/v2/models/{ref}/infer",
        "call",
        {"POST": Operation(oip.infer, (InferRequest, OCTETS), (dict[str, Any], OCTETS))},
    ),
    Route(
        "/v2/models/{ref}/versions/{version}/infer",
        "call",
        {"POST": Operation(oip.infer, (InferRequest, OCTETS), (dict[str, Any], OCTETS))},
    ),
    Route("/v1/chat/completions", "call", {"POST": CHAT}),
    Route("/models/{ref}/v1/chat/completions", "call", {"POST": CHAT}),
    Route(
        "/v1/completions",
        "call",
        {
            "POST": Operation(
                completions.create, (completions.CompletionBody,), (Completion, EVENTS)
            )
        },
    ),
    Route(
        "/v1/audio/transcriptions",
        "call",
        {"POST": Operation(audio.transcriptions, (FORM,), (*HEARD, EVENTS))},
    ),
    Route(
        "/v1/audio/translations",
        "call",
        {"POST": Operation(audio.translations, (FORM,), HEARD)},
    ),
    Route(
        "/v1/embeddings",
        "call",
        {
            "POST": Operation(
                embeddings.create, (embeddings.EmbeddingsBody,), (embeddings.Embeddings,)
            )
        },
    ),
    Route(
        "/v1/realtime",
        "call",
        {"GET": Operation(realtime.connect, (), (), query=realtime.QUERY, status=101)},
    ),
    Route(
        "/v1/audio/speech",
        "call",
        {"POST": Operation(speech.create, (speech.SpeechBody,), (*SOUNDS, EVENTS))},
    ),
    *(
        Route(
            path,
            "call",
            {"POST": Operation(rerank.create, (rerank.RerankBody,), (rerank.Reranked,))},
        )
        for path in ("/v1/rerank", "/rerank")
    ),
    Route(
        "/translate",
        "call",
        {
            "POST": Operation(
                libretranslate.translate,
                (libretranslate.TranslateBody, libretranslate.FORM),
                (libretranslate.Translation,),
            )
        },
        libretranslate.key_in_body,
    ),
    Route(
        "/detect",
        "call",
        {
            "POST": Operation(
                libretranslate.detect,
                (libretranslate.DetectBody, libretranslate.FORM),
                (list[libretranslate.Detected],),
            )
        },
        libretranslate.key_in_body,
    ),
    Route(
        "/languages",
        "call",
        {"GET": Operation(libretranslate.languages, (), (list[libretranslate.Language],))},
        libretranslate.key_in_body,
    ),
    Route(
        "/v1/messages",
        "call",
        {"POST": Operation(messages.create, (MessagesBody,), (AnswerMessage, EVENTS))},
    ),
    Route(
        "/v1/messages/count_tokens",
        "call",
        {"POST": Operation(messages.count_tokens, (CountBody,), (TokenCount,))},
    ),
    Route(
        "/v1/responses",
        "call",
        {"POST": Operation(responses.create, (ResponsesBody,), (Response, EVENTS))},
    ),
    Route(
        "/v1/responses/{id}",
        "call",
        {
            "GET": Operation(responses.get, (), (Response,)),
            "DELETE": Operation(responses.delete, (), (Deleted,)),
        },
    ),
    Route(
        "/v1/responses/{id}/input_items",
        "call",
        {
            "GET": Operation(
                responses.input_items, (), (ItemList,), query=("after", "limit", "order")
            )
        },
    ),
    Route(
        "/v1/models",
        "call",
        {
            "GET": Operation(
                openai.models, (), (openai.ModelList, ModelPage), query=messages_models.QUERY
            )
        },
    ),
    Route(
        "/v1/models/{ref}",
        "call",
        {"GET": Operation(openai.model, (), (openai.ModelObject, ModelInfo))},
    ),
    Route("/v2", "call", {"GET": Operation(oip.server, (), (oip_models.ServerMetadata,))}),
    Route("/v2/health/live", "open", {"GET": Operation(health.live, (), (dict[str, bool],))}),
    Route("/v2/health/ready", "open", {"GET": Operation(health.ready, (), (dict[str, bool],))}),
    Route("/v2/models/stats", "call", {"GET": Operation(oip.statistics, (), (STATISTICS,))}),
    *(
        Route(f"{model}{rest}", "call", {"GET": operation})
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
        "call",
        {"POST": Operation(oip.index, (oip_models.IndexBody,), (list[oip_models.IndexEntry],))},
    ),
    Route(
        "/v2/repository/models/{ref}/load",
        "admin",
        {"POST": Operation(oip.load, (oip.ControlBody,), (dict[str, Any],))},
    ),
    Route(
        "/v2/repository/models/{ref}/unload",
        "admin",
        {"POST": Operation(oip.unload, (oip.ControlBody,), (dict[str, Any],))},
    ),
    Route("/health/live", "open", {"GET": Operation(health.live, (), (dict[str, bool],))}),
    Route("/health/ready", "open", {"GET": Operation(health.ready, (), (dict[str, bool],))}),
    Route("/metrics", "admin", {"GET": Operation(health.metrics, (), ("text/plain",))}),
    Route("/openapi.json", "call", {"GET": Operation(describe, (), (dict[str, Any],))}),
    Route("/docs", "call", {"GET": Operation(page, (), ("text/html",))}),
    Route("/api/workers", "admin", {"GET": Operation(admin.ps, (), (list[WorkerStatus],))}),
    Route("/api/whoami", "admin", {"GET": Operation(admin.whoami, (), (KeyRecord,))}),
    Route(
        "/api/models",
        "admin",
        {
            "GET": Operation(admin.models, (), (list[ModelVersion],)),
            "POST": Operation(
                upload.publish, ("multipart/form-data",), (ModelVersion,), status=201, queues=True
            ),
        },
    ),
    Route(
        "/api/models/{ref}",
        "admin",
        {
            "GET": Operation(admin.model, (), (ModelVersion,)),
            "DELETE": Operation(admin.remove, (), (list[ModelVersion],), query=("force",)),
        },
    ),
    Route(
        "/api/models/{ref}/versions",
        "admin",
        {"GET": Operation(admin.versions, (), (list[ModelVersion],))},
    ),
    Route(
        "/api/models/{ref}/card", "admin", {"GET": Operation(admin.card, (), ("text/markdown",))}
    ),
    Route(
        "/api/models/{ref}/curves", "admin", {"GET": Operation(admin.curves, (), ("image/png",))}
    ),
    Route("/api/models/{ref}/load", "admin", {"POST": Operation(admin.load, (), (ModelVersion,))}),
    Route(
        "/api/pulls",
        "admin",
        {"POST": Operation(admin.pull, (PullBody,), (ModelVersion,), status=201, queues=True)},
    ),
    Route(
        "/api/upstreams",
        "admin",
        {"POST": Operation(admin.connect, (ConnectBody,), (ModelVersion,), status=201)},
    ),
    Route(
        "/api/pipelines",
        "admin",
        {"POST": Operation(admin.make_pipeline, (PipelineBody,), (ModelVersion,), status=201)},
    ),
    Route(
        "/api/models/{ref}/compress",
        "admin",
        {
            "POST": Operation(
                admin.compress, (CompressOptions,), (Variant,), status=201, queues=True
            )
        },
    ),
    Route("/api/models/{ref}/stop", "admin", {"POST": Operation(admin.stop, (), (ModelVersion,))}),
    Route(
        "/api/models/{ref}/aliases/{alias}",
        "admin",
        {
            "PUT": Operation(admin.set_alias, (admin.AliasBody,), (ModelVersion,)),
            "DELETE": Operation(admin.remove_alias, (), (dict[str, str],)),
        },
    ),
    Route(
        "/api/keys",
        "admin",
        {
            "GET": Operation(admin.keys, (), (list[KeyRecord],)),
            "POST": Operation(admin.create_key, (admin.KeyBody,), (admin.NewKey,), status=201),
        },
    ),
    Route("/api/keys/{id}", "admin", {"DELETE": Operation(admin.revoke_key, (), (KeyRecord,))}),
    Route(
        "/v1/files",
        "admin",
        {
            "GET": Operation(files.page, (), (files.FileList,), query=files.LIST_QUERY),
            "POST": Operation(files.create, ("multipart/form-data",), (files.FileObject,)),
        },
    ),
    Route(
        "/v1/files/{id}",
        "admin",
        {
            "GET": Operation(files.get, (), (files.FileObject,)),
            "DELETE": Operation(files.delete, (), (files.DeletedFile,)),
        },
    ),
    Route("/v1/files/{id}/content", "admin", {"GET": Operation(files.content, (), (OCTETS,))}),
    Route(
        "/v1/uploads",
        "admin",
        {"POST": Operation(uploads.create, (uploads.UploadBody,), (uploads.UploadObject,))},
    ),
    Route(
        "/v1/uploads/{id}", "admin", {"GET": Operation(uploads.get, (), (uploads.UploadObject,))}
    ),
    Route(
        "/v1/uploads/{id}/parts",
        "admin",
        {"POST": Operation(uploads.add_part, ("multipart/form-data",), (uploads.UploadPart,))},
    ),
    Route(
        "/v1/uploads/{id}/complete",
        "admin",
        {"POST": Operation(uploads.complete, (uploads.CompleteBody,), (uploads.UploadObject,))},
    ),
    Route(
        "/v1/uploads/{id}/cancel",
        "admin",
        {"POST": Operation(uploads.cancel, (), (uploads.UploadObject,))},
    ),
    Route(
        "/v1/fine_tuning/jobs",
        "admin",
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
        "admin",
        {"GET": Operation(fine_tuning.get, (), (fine_tuning.FineTuningJob,))},
    ),
    *(
        Route(
            f"/v1/fine_tuning/jobs/{{id}}/{verb.__name__}",
            "admin",
            {"POST": Operation(verb, (), (fine_tuning.FineTuningJob,))},
        )
        for verb in (fine_tuning.cancel, fine_tuning.pause, fine_tuning.resume)
    ),
    Route(
        "/v1/fine_tuning/jobs/{id}/checkpoints",
        "admin",
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
        "admin",
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
        "admin",
        {
            "GET": Operation(jobs.page, (), (list[Job],), query=jobs.LIST_QUERY),
            "POST": Operation(jobs.create, (jobs.TrainBody,), (Job,), status=201),
        },
    ),
    Route("/api/recipes/schema", "admin", {"GET": Operation(jobs.schema, (), (dict[str, Any],))}),
    Route("/api/jobs/{id}", "admin", {"GET": Operation(jobs.get, (), (Job,))}),
    Route("/api/jobs/{id}/cancel", "admin", {"POST": Operation(jobs.cancel, (), (Job,))}),
    Route("/api/jobs/{id}/pause", "admin", {"POST": Operation(jobs.pause, (), (Job,))}),
    Route("/api/jobs/{id}/resume", "admin", {"POST": Operation(jobs.resume, (), (Job,))}),
    Route("/api/jobs/{id}/log", "admin", {"GET": Operation(jobs.log, (), (jobs.JobLog,))}),
    Route("/api/jobs/{id}/metrics", "admin", {"GET": Operation(jobs.metrics, (), ("text/csv",))}),
    Route("/api/jobs/{id}/curves", "admin", {"GET": Operation(jobs.curves, (), ("image/png",))}),
    Route(
        "/api/jobs/{id}/events",
        "admin",
        {"GET": Operation(jobs.events, (), (list[StoredEvent], EVENTS), query=jobs.EVENTS_QUERY)},
    ),
    Route(
        "/api/webhooks",
        "admin",
        {
            "GET": Operation(webhooks.page, (), (list[Webhook],)),
            "POST": Operation(
                webhooks.create, (webhooks.WebhookBody,), (webhooks.NewWebhook,), status=201
            ),
        },
    ),
    Route("/api/webhooks/{id}", "admin", {"DELETE": Operation(webhooks.delete, (), (Webhook,))}),
    Route(
        "/api/webhooks/{id}/deliveries",
        "admin",
        {
            "GET": Operation(
                webhooks.deliveries, (), (list[WebhookDelivery],), query=webhooks.DELIVERIES_QUERY
            )
        },
    ),
    Route(
        "/api/chat",
        "call",
        {"POST": Operation(ollama.chat, (OllamaChat,), (OllamaAnswer, LINES))},
    ),
    Route(
        "/api/generate",
        "call",
        {"POST": Operation(ollama.generate, (OllamaGenerate,), (OllamaAnswer, LINES))},
    ),
    Route(
        "/api/embed",
        "call",
        {"POST": Operation(ollama.embed, (ollama.OllamaEmbed,), (ollama.OllamaVectors,))},
    ),
    Route(
        "/api/embeddings",
        "call",
        {"POST": Operation(ollama.embeddings, (ollama.OllamaPrompt,), (ollama.OllamaVector,))},
    ),
    Route(
        "/api/tags",
        "call",
        {"GET": Operation(ollama_models.tags, (), (ollama_models.OllamaModels,))},
    ),
    Route(
        "/api/ps",
        "call",
        {"GET": Operation(ollama_models.ps, (), (ollama_models.OllamaProcesses,))},
    ),
    Route(
        "/api/version",
        "call",
        {"GET": Operation(ollama_models.version, (), (ollama_models.OllamaVersion,))},
    ),
    Route(
        "/api/show",
        "call",
        {
            "POST": Operation(
                ollama_models.show, (ollama_models.OllamaShow,), (ollama_models.OllamaShown,)
            )
        },
    ),
    Route(
        "/api/pull",
        "admin",
        {
            "POST": Operation(
                ollama_models.pull,
                (ollama_models.OllamaPull,),
                (ollama_models.OllamaStatus, LINES),
            )
        },
    ),
    Route(
        "/v1/usage", "call", {"GET": Operation(usage.usage, (), (UsageReport,), query=usage.QUERY)}
    ),
    Route(
        "/api/keys/{id}/limits",
        "admin",
        {
            "GET": Operation(usage.limits, (), (Limits,)),
            "PUT": Operation(usage.set_limits, (Limits,), (Limits,)),
        },
    ),
    Route(
        "/api/limits",
        "admin",
        {
            "GET": Operation(usage.limits, (), (Limits,)),
            "PUT": Operation(usage.set_limits, (Limits,), (Limits,)),
        },
    ),
    Route("/api/prices", "admin", {"GET": Operation(usage.prices, (), (list[ModelPrice],))}),
    Route(
        "/api/prices/{model}", "admin", {"PUT": Operation(usage.set_price, (Price,), (ModelPrice,))}
    ),
]
