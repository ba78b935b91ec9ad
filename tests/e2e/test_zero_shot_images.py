"""A CLIP on a real server: labels that nobody trained on, for images, as the checkpoint says."""

import asyncio
import base64
import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from llava import make_clip, make_siglip
from lmaas.config import Settings
from lmaas.service import Service
from lmaas.types import TENANT, PushOptions
from servers import Running, photo, serving

LABELS = ["a cat", "the weather", "x", "a house by the sea"]
CAT, DOG = photo(1), photo(2, (64, 33))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    with closing(Service(Settings(home=str(home)))) as service:
        version = asyncio.run(service.catalog.push(TENANT, source, PushOptions(name="clip")))
        assert version.manifest.task == "zero-shot-image-classification"
        assert version.parity.passed("f32")
        assert {check.name for check in version.parity.checks} >= {
            "images 2, labels 5",
            "images 0, labels 3",
            "images 2, labels 0",
        }
    with serving(home, max_image_pixels=1_000_000) as running:
        yield running


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(server: Running, inputs: Any, **parameters: Any) -> httpx.Response:
    return httpx.post(
        f"{server.url}/models/clip",
        json={"inputs": inputs, "parameters": parameters},
        headers=server.caller,
        timeout=60,
    )


def expected(source: Path, images: list[bytes], texts: list[str]) -> np.ndarray:
    """Probabilities (images, texts), straight from the source."""
    import torch
    from transformers import AutoTokenizer, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model = CLIPModel.from_pretrained(source).eval()
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in images]
    pixels = processor(opened, return_tensors="pt")["pixel_values"]
    tokens = AutoTokenizer.from_pretrained(source)
    columns = []
    with torch.inference_mode():
        for text in texts:
            ids = tokens(text, return_tensors="pt").input_ids
            columns.append(model(pixel_values=pixels, input_ids=ids).logits_per_image[:, 0])
    return np.asarray(torch.stack(columns, 1).softmax(-1))


@pytest.mark.parametrize("template", [None, "An image: {}"])
def test_scores_are_the_source_s(server: Running, source: Path, template: str | None) -> None:
    more = {} if template is None else {"hypothesis_template": template}
    answer = ask(server, [encoded(CAT), encoded(DOG)], candidate_labels=LABELS, **more)
    assert answer.status_code == 200, answer.text
    texts = [(template or "This is a photo of {}.").replace("{}", label) for label in LABELS]
    for told, wanted in zip(answer.json(), expected(source, [CAT, DOG], texts), strict=True):
        scores = {each["label"]: each["score"] for each in told}
        assert [scores[label] for label in LABELS] == pytest.approx(wanted.tolist(), abs=1e-4)
        assert [each["score"] for each in told] == sorted(scores.values(), reverse=True)
    one = ask(server, encoded(CAT), candidate_labels=",".join(LABELS), **more).json()
    assert [each["label"] for each in one] == [each["label"] for each in answer.json()[0]]
    assert answer.json()[0] != answer.json()[1]


def test_the_stock_client_reads_the_answer(server: Running) -> None:
    from huggingface_hub import InferenceClient

    client = InferenceClient(model=f"{server.url}/models/clip", token=server.call_key)
    told = client.zero_shot_image_classification(CAT, LABELS)
    wanted = ask(server, encoded(CAT), candidate_labels=LABELS).json()
    assert [each.label for each in told] == [each["label"] for each in wanted]
    assert sum(each.score for each in told) == pytest.approx(1, abs=1e-4)


def test_tensors_are_compared(server: Running) -> None:
    pixels = np.zeros((2, 3, 32, 32), np.float32)
    inputs = [
        {"name": "pixel_values", "shape": [2, 3, 32, 32], "datatype": "FP32",
         "data": pixels.ravel().tolist()},
        {"name": "input_ids", "shape": [3, 4], "datatype": "INT64", "data": [1, 9, 8, 2] * 3},
        {"name": "attention_mask", "shape": [3, 4], "datatype": "INT64", "data": [1] * 12},
    ]  # fmt: skip
    url = f"{server.url}/v2/models/clip/infer"
    answer = httpx.post(url, json={"inputs": inputs}, headers=server.caller, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["shape"] == [2, 3]
    inputs[1]["data"] = [1, 9, 100_000, 2] * 3
    answer = httpx.post(url, json={"inputs": inputs}, headers=server.caller, timeout=60)
    assert answer.status_code == 400


def vectors_of(source: Path, image: bytes, texts: list[str]) -> np.ndarray:
    """The vectors of an image and of texts, straight from the source, each at length 1."""
    import torch
    from transformers import AutoTokenizer, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model, tokens = CLIPModel.from_pretrained(source).eval(), AutoTokenizer.from_pretrained(source)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    pixels = processor([Image.open(io.BytesIO(image)).convert("RGB")], return_tensors="pt")
    with torch.inference_mode():
        told = [model(**pixels, **tokens(text, return_tensors="pt")) for text in texts]
    rows = [told[0].image_embeds[0], *(each.text_embeds[0] for each in told)]
    return np.stack([row.numpy() / np.linalg.norm(row.numpy()) for row in rows])


def test_images_and_texts_have_vectors_in_one_space(server: Running, source: Path) -> None:
    import openai
    from huggingface_hub import InferenceClient

    texts = ["a cat", "the weather in the mountains"]
    wanted = vectors_of(source, CAT, texts)
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.call_key)
    image = {"image": f"data:image/png;base64,{encoded(CAT)}"}
    mixed: Any = [texts[0], image, {"text": texts[1]}]
    told = client.embeddings.create(model="clip", input=mixed)
    rows = np.array([each.embedding for each in told.data])
    np.testing.assert_allclose(rows, wanted[[1, 0, 2]], atol=1e-4)
    assert told.usage.prompt_tokens > 0
    alone = client.embeddings.create(model="clip", input=texts, dimensions=4)
    cut = wanted[1:, :4] / np.linalg.norm(wanted[1:, :4], axis=1, keepdims=True)
    np.testing.assert_allclose([each.embedding for each in alone.data], cut, atol=1e-4)
    only: Any = [image]
    told = client.embeddings.create(model="clip", input=only)
    np.testing.assert_allclose([told.data[0].embedding], wanted[:1], atol=1e-4)
    stock = InferenceClient(model=f"{server.url}/models/clip", token=server.call_key)
    np.testing.assert_allclose(stock.feature_extraction(texts[0]), wanted[1], atol=1e-4)
    answer = httpx.post(
        f"{server.url}/models/clip/pipeline/feature-extraction",
        json={"inputs": [{"image": encoded(CAT)}, texts[1]]},
        headers=server.caller,
        timeout=60,
    )
    np.testing.assert_allclose(answer.json(), wanted[[0, 2]], atol=1e-4)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([{"image": encoded(CAT)[:-5]}], "input[0] is not base64"),
        ([{"image": "x", "text": "y"}], "input[0]"),
        (["a", {}], "input[1]"),
        ([{"image": encoded(CAT)}, [1, 2]], "token ids"),
        ([[1, 2]], "token ids"),
        ([{"image": encoded(CAT)}] * 33, "33 images"),
        ([{"image": "https://images.example.com/a.png"}], "not base64"),
        (["a " * 100], "at most 32"),
        ([{"text": ""}], "empty"),
        ([], "empty"),
    ],
)
def test_what_has_no_vector_is_named(server: Running, given: Any, told: str) -> None:
    body = {"model": "clip", "input": given, "own_token_ids": True}
    answer = httpx.post(f"{server.url}/v1/embeddings", json=body, headers=server.caller, timeout=60)
    assert answer.status_code in (400, 413), answer.text
    assert told in answer.text


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_siglip(tmp_path_factory.mktemp("siglip"))


def test_each_label_by_itself(server: Running, other: Path) -> None:
    """SigLIP: its scores are each label's own, and do not add up to 1."""
    import torch
    from transformers import AutoTokenizer, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    with closing(Service(Settings(home=str(server.home)))) as service:
        asyncio.run(service.catalog.push(TENANT, other, PushOptions(name="siglip")))
    model, tokens = SiglipModel.from_pretrained(other).eval(), AutoTokenizer.from_pretrained(other)
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    pixels = processor([Image.open(io.BytesIO(CAT)).convert("RGB")], return_tensors="pt")
    texts = [f"An image: {label}" for label in LABELS]
    ids = tokens(texts, padding="max_length", max_length=32, return_tensors="pt").input_ids
    with torch.inference_mode():
        wanted = model(**pixels, input_ids=ids).logits_per_image.sigmoid()[0].tolist()
    answer = httpx.post(
        f"{server.url}/models/siglip",
        json={
            "inputs": encoded(CAT),
            "parameters": {"candidate_labels": LABELS, "hypothesis_template": "An image: {}"},
        },
        headers=server.caller,
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    scores = {each["label"]: each["score"] for each in answer.json()}
    assert [scores[label] for label in LABELS] == pytest.approx(wanted, abs=1e-4)


def large() -> bytes:
    file = io.BytesIO()
    Image.new("1", (1001, 1000)).save(file, "PNG")
    return file.getvalue()


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (encoded(CAT), {}, "candidate_labels"),
    (encoded(CAT), {"candidate_labels": ["a", "a"]}, "each once"),
    (encoded(CAT), {"candidate_labels": ["a"], "hypothesis_template": "none"}, "{}"),
    (encoded(CAT), {"candidate_labels": ["a "  * 60]}, "at most 32"),
    (encoded(CAT), {"candidate_labels": [str(n) for n in range(2049)]}, "2049 labels"),
    (encoded(CAT), {"candidate_labels": ["a"], "top_k": 2}, "top_k"),
    (encoded(CAT)[:-5], {"candidate_labels": ["a"]}, "not base64"),
    (encoded(CAT[:300]), {"candidate_labels": ["a"]}, "damaged"),
    (encoded(b"<svg/>"), {"candidate_labels": ["a"]}, "inputs[0]"),
    ([encoded(CAT), 3], {"candidate_labels": ["a"]}, "inputs[1]"),
    ([encoded(CAT)] * 33, {"candidate_labels": ["a"]}, "up to 32"),
    ([], {"candidate_labels": ["a"]}, "up to 32"),
    (encoded(large()), {"candidate_labels": ["a"]}, "1001 x 1000"),
    ("https://images.example.com/a.png", {"candidate_labels": ["a"]}, "not base64"),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "parameters", "told"), BAD)
def test_what_is_not_served_is_refused_by_name(
    server: Running, inputs: Any, parameters: dict[str, Any], told: str
) -> None:
    answer = ask(server, inputs, **parameters)
    assert answer.status_code in (400, 413), answer.text
    assert told in answer.json()["error"]


def test_bytes_need_labels(server: Running) -> None:
    answer = httpx.post(f"{server.url}/models/clip", content=CAT, headers=server.caller)
    assert answer.status_code == 400
    assert "candidate_labels" in answer.json()["error"]
