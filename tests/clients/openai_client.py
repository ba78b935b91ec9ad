"""The `openai` package: models, chat, streams, tools, formats, responses, completions.

The newest version of it, and the oldest that is supported (`tests/e2e/test_stock_clients.py`).
"""

import json
import sys
from typing import Any

import openai
from openai import BadRequestError, NotFoundError, OpenAI

USER: Any = [{"role": "user", "content": "hello world"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "visit", "parameters": SCHEMA}}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}


def main(url: str, key: str) -> None:
    """Ask for what applications ask for. Prints the version of the client."""
    query = {"api-version": "2024-10-21"}
    with OpenAI(base_url=f"{url}/v1", api_key=key, default_query=query, max_retries=0) as client:
        assert "tiny" in [model.id for model in client.models.list(extra_query={"limit": 5})]
        asked: Any = {"model": "tiny", "messages": USER, "temperature": 0}
        whole = client.chat.completions.create(**asked, max_tokens=8)
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 8
        pieces = list(
            client.chat.completions.create(
                **asked, max_tokens=8, stream=True, stream_options={"include_usage": True}
            )
        )
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        assert text == whole.choices[0].message.content
        assert pieces[-1].usage == whole.usage
        formed = client.chat.completions.create(
            **asked, max_completion_tokens=128_000, response_format=FORMAT
        )
        assert json.loads(formed.choices[0].message.content or "")["city"] in ("Paris", "Rome")
        called = client.chat.completions.create(
            **asked, max_tokens=300, tools=[TOOL], tool_choice="required"
        )
        call: Any = (called.choices[0].message.tool_calls or [])[0]
        assert call.type == "function"
        assert call.function.name == "visit"
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
        answer = client.responses.create(model="tiny", input="hello", max_output_tokens=16)
        assert answer.status in ("completed", "incomplete")
        assert answer.output_text
        assert client.completions.create(model="tiny", prompt="hello", max_tokens=4).choices
        for kind, wrong, more in (
            (NotFoundError, "model", {"model": "nobody", "messages": USER}),
            (BadRequestError, "colour", {**asked, "extra_body": {"colour": "red"}}),
            (BadRequestError, "max_tokens", {**asked, "max_tokens": 2**31}),
        ):
            try:
                client.chat.completions.create(**more)
            except kind as error:
                assert error.type in ("not_found_error", "invalid_request_error")
                assert error.param in (wrong, None) if wrong == "model" else error.param == wrong
            else:
                raise AssertionError(wrong)
    print(openai.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:3])
