"""Translation on a real server: a checkpoint of many languages and a model learned here, asked by
the stock clients of Hugging Face and of LibreTranslate.
"""

import asyncio
import json
import urllib.error
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError
from libretranslatepy import LibreTranslateAPI

import sequence_checkpoints
from lmaas.config import Settings
from lmaas.job import RESULT_FOLDER
from lmaas.recipe import recipe_of
from lmaas.service import Service
from lmaas.training import run as training
from lmaas.types import TENANT, PushOptions
from servers import Running, serving, usage_rows

TEXTS = ["w10 w11 w12", "w20", "w30 w31 w32 w33 w34 w35"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    return sequence_checkpoints.make("m2m_100", folder)


def learned(folder: Path) -> Path:
    """A package of a model that has hardly learned anything."""
    pairs = [{"source": f"Row {n}.", "target": f"Zeile {n}."} for n in range(40)]
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    recipe = recipe_of(
        {
            "name": "own",
            "task": "translation",
            "framework": "pytorch",
            "data": {
                "train": str(data),
                "options": {
                    "vocabulary": 300,
                    "max_length": 32,
                    "source_language": "it",
                    "target_language": "pl",
                },
            },
            "model": {"options": {"width": 16, "layers": 1, "heads": 2}},
            "epochs": 1,
        }
    )
    assert training.run(recipe, folder, "job-1", lambda event: None)
    return folder / RESULT_FOLDER


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    with closing(Service(Settings(home=str(home)))) as service:
        version = asyncio.run(service.catalog.push(TENANT, checkpoint, PushOptions(name="many")))
        assert version.manifest.task == "translation"
        assert set(version.manifest.signature.sequence.languages) == set(  # type: ignore[union-attr]
            sequence_checkpoints.LANGUAGES
        )
        package = learned(tmp_path_factory.mktemp("learned"))
        asyncio.run(service.catalog.push(TENANT, package, PushOptions(name="own")))
    with serving(home) as running:
        yield running


def hugging_face(server: Running, name: str = "many") -> InferenceClient:
    return InferenceClient(model=f"{server.url}/models/{name}", token=server.call_key)


def libre(server: Running) -> LibreTranslateAPI:
    return LibreTranslateAPI(server.url, api_key=server.call_key)


def post(server: Running, path: str = "/translate", **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, headers=server.caller, timeout=60)


def generated(checkpoint: Path, text: str, beams: int) -> str:
    """What transformers writes in German for an English text."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint).eval()
    with torch.inference_mode():
        ids = model.generate(
            **tokenizer(text, return_tensors="pt", return_token_type_ids=False),
            forced_bos_token_id=tokenizer.convert_tokens_to_ids("deu_Latn"),
            num_beams=beams,
            max_length=64,
        )
    return str(tokenizer.decode(ids[0], skip_special_tokens=True))


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_those_of_transformers(
    server: Running, checkpoint: Path, text: str, beams: int
) -> None:
    told = hugging_face(server).translation(
        text, src_lang="en", tgt_lang="de", generate_parameters={"num_beams": beams}
    )
    assert told.translation_text == generated(checkpoint, text, beams)


def test_clients_agree(server: Running) -> None:
    told = hugging_face(server).translation(TEXTS[0], src_lang="eng_Latn", tgt_lang="deu_Latn")
    assert libre(server).translate(TEXTS[0], "en", "de") == told.translation_text
    answer = post(server, q=TEXTS, source="en", target="de")
    assert answer.headers["x-lmaas-model"] == "many:1"
    assert answer.json()["translatedText"][0] == told.translation_text
    assert len(answer.json()["translatedText"]) == len(TEXTS)


def test_the_model_is_found_by_the_pair(server: Running) -> None:
    answer = post(server, q="Row 3.", source="it", target="pl")
    assert answer.headers["x-lmaas-model"] == "own:1"
    told = hugging_face(server, "own").translation("Row 3.")
    assert answer.json() == {"translatedText": told.translation_text}
    named = post(server, q=TEXTS[0], source="en", target="fr", model="many")
    assert named.status_code == 200
    wrong = post(server, q="Row 3.", source="it", target="pl", model="many")
    assert wrong.status_code == 400
    assert "eng_Latn" in wrong.json()["error"]


def test_languages(server: Running) -> None:
    told = {each["code"]: each for each in libre(server).languages()}
    assert set(told) == {"en", "de", "fr", "it"}
    assert told["de"]["name"] == "German"
    assert told["en"]["targets"] == ["de", "en", "fr"]
    assert told["it"]["targets"] == ["pl"]


def test_detect(server: Running) -> None:
    best, *_ = libre(server).detect("Wo hast du heute die Schlüssel für das Haus hingelegt?")
    assert best["language"] == "de"
    assert best["confidence"] > 50
    (short, *_) = post(server, "/detect", q="so").json()
    assert short["confidence"] < 40
    assert post(server, "/detect", q="1234").status_code == 400


def test_a_source_that_is_told_by_the_text(server: Running) -> None:
    answer = post(server, q="Où sont les clés de la maison ?", source="auto", target="de").json()
    assert answer["detectedLanguage"]["language"] == "fr"
    several = post(server, q=["Dove sei", "stato ieri sera?"], source="auto", target="pl").json()
    assert [each["language"] for each in several["detectedLanguage"]] == ["it", "it"]
    refused = post(server, q="...", source="auto", target="de")
    assert refused.status_code == 400
    assert "Name the source language" in refused.json()["error"]


def test_alternatives(server: Running) -> None:
    told = post(server, q=TEXTS[0], source="en", target="de", alternatives=3).json()
    assert 1 <= len(told["alternatives"]) <= 3
    assert told["translatedText"] not in told["alternatives"]
    best = hugging_face(server).translation(
        TEXTS[0], src_lang="en", tgt_lang="de", generate_parameters={"num_beams": 4}
    )
    assert told["translatedText"] == best.translation_text
    several = post(server, q=TEXTS, source="en", target="de", alternatives=1).json()
    assert len(several["alternatives"]) == 3
    assert post(server, q="w9", source="en", target="de", alternatives=16).status_code == 400


def test_markup(server: Running) -> None:
    page = "<h1 class='a'>w10 w11</h1><script>let x = '<p>'</script>\n<p>w12</p>"
    told = post(server, q=page, source="en", target="de", format="html").json()["translatedText"]
    one, two = (
        post(server, q=text, source="en", target="de").json()["translatedText"]
        for text in ("w10 w11", "w12")
    )
    assert told == f"<h1 class='a'>{one}</h1><script>let x = '<p>'</script>\n<p>{two}</p>"


def test_the_key_may_be_in_the_body(server: Running) -> None:
    body = {"q": "w10", "source": "en", "target": "de"}
    url = f"{server.url}/translate"
    given = {**body, "api_key": server.call_key}
    for answer in (httpx.post(url, json=given), httpx.post(url, data=given)):
        assert answer.status_code == 200, answer.text
    form = httpx.post(url, data={**given, "alternatives": "1", "format": "text"})
    assert form.json()["alternatives"]
    for answer in (
        httpx.post(url, json=body),
        httpx.post(url, data=body),
        httpx.post(url, json={**body, "api_key": "sk-lmaas-none"}),
        httpx.post(url, json={**body, "api_key": 3}),
        httpx.post(url, content=b"{", headers={"content-type": "application/json"}),
        httpx.post(url, json={**body, "api_key": server.call_key}, headers=server.admin),
    ):
        assert answer.status_code == 401
        assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"q": "a", "source": "en"}, "target"),
        ({"source": "en", "target": "de"}, "q"),
        ({"q": "", "source": "en", "target": "de"}, "empty"),
        ({"q": [], "source": "en", "target": "de"}, "empty"),
        ({"q": ["a", 3], "source": "en", "target": "de"}, "q[1]"),
        ({"q": "a", "source": "en", "target": "xx"}, "de, en, fr, pl"),
        ({"q": "a", "source": "xx", "target": "de"}, "de, en, fr, it"),
        ({"q": "a", "source": "it", "target": "de"}, "into pl"),
        ({"q": "a", "source": "auto", "target": "xx"}, "source"),
        ({"q": "a", "source": "en", "target": "de", "format": "pdf"}, "format"),
        ({"q": "a", "source": "en", "target": "de", "glossary": "g"}, "glossary"),
        ({"q": "x" * 300_000, "source": "en", "target": "de"}, "262144"),
    ],
)
def test_what_is_refused(server: Running, body: dict[str, Any], told: str) -> None:
    answer = post(server, **body)
    assert answer.status_code in (400, 413)
    assert told in answer.json()["error"]


def test_forms_that_are_none(server: Running) -> None:
    headers = {**server.caller, "content-type": "application/x-www-form-urlencoded"}
    for content, told in (
        (b"q=a&q=b&source=en&target=de", "twice"),
        (b"q=%ff&source=en&target=de", "form"),
        (b"q", "form"),
        ("q=ü".encode(), "form"),
        (b"&".join(b"a%d=1" % n for n in range(40)), "form"),
        (b"", "missing"),
    ):
        answer = httpx.post(f"{server.url}/translate", content=content, headers=headers)
        assert answer.status_code == 400, content
        assert told in answer.json()["error"]
    other = httpx.post(
        f"{server.url}/translate",
        content=b"q",
        headers={**server.caller, "content-type": "text/plain"},
    )
    assert "text/plain" in other.json()["error"]


def test_stock_clients_are_told_what_is_wrong(server: Running) -> None:
    with pytest.raises(BadRequestError, match="deu_Latn"):
        hugging_face(server).translation("w9", src_lang="en", tgt_lang="nl")
    with pytest.raises(urllib.error.HTTPError) as error:
        libre(server).translate("w9", "en", "nl")
    assert "no language" in json.loads(error.value.read())["error"]


def test_tokens_are_in_the_usage(server: Running) -> None:
    made = httpx.post(
        f"{server.url}/api/keys",
        json={"name": "counted", "scopes": ["call"], "limits": {"tokens_per_minute": 100_000}},
        headers=server.admin,
    ).json()
    headers = {"authorization": f"Bearer {made['key']}"}
    body = {"inputs": ["w10 w11", "w12"], "parameters": {"src_lang": "en", "tgt_lang": "de"}}
    answer = httpx.post(f"{server.url}/models/many", json=body, headers=headers)
    assert answer.status_code == 200
    assert len(answer.json()) == 2
    report = httpx.get(
        f"{server.url}/v1/usage", params={"group_by": "key"}, headers=server.admin
    ).json()
    (row,) = [row for row in report["data"] if row["key"] == made["record"]["id"]]
    assert row["prompt_tokens"] == 3 + 2 * 2  # the words, and a language and an end for each text
    assert row["completion_tokens"] > 0
    assert usage_rows(server.home, made["record"]["id"])[0][1] == 7
    tight = httpx.post(
        f"{server.url}/api/keys",
        json={"name": "tight", "scopes": ["call"], "limits": {"tokens_per_minute": 10}},
        headers=server.admin,
    ).json()
    headers = {"authorization": f"Bearer {tight['key']}"}
    asked = {"q": "w10", "source": "en", "target": "de"}
    for path, given in (("/models/many", body), ("/translate", asked)):
        refused = httpx.post(f"{server.url}{path}", json=given, headers=headers)
        assert refused.status_code == 429
