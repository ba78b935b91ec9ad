"""The `openai` package: models, chat, streams, tools, formats, responses, completions."""

import json
import sys
from typing import Any

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
    """Ask for what applications ask for."""
    query = {"api-version": "2024-10-21"}
    with OpenAI(base_url=f"{url}/v1", api_key=key, default_query=query, max_retries=0) as client:
        assert "tiny" in [model.id for model in client.models.list(extra_query={"limit": 5})]
        asked: Any = {"model": "tiny", "messages": USER, "temperature": 0}
        whole = client.chat.completions.create(**asked, max_tokens=8)
        pieces = client.chat.completions.create(**asked, max_tokens=8, stream=True)
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        assert text == whole.choices[0].message.content
        formed = client.chat.completions.create(
            **asked, max_completion_tokens=128_000, response_format=FORMAT
        )
        assert json.loads(formed.choices[0].message.content or "")["city"] in ("Paris", "Rome")
        called = client.chat.completions.create(
            **asked, max_tokens=200, tools=[TOOL], tool_choice="required"
        )
        assert (called.choices[0].message.tool_calls or [])[0].type == "function"
        answer = client.responses.create(model="tiny", input="hello", max_output_tokens=8)
        assert answer.status in ("completed", "incomplete")
        assert client.completions.create(model="tiny", prompt="hello", max_tokens=4).choices
        for kind, wrong in ((NotFoundError, "nobody"), (BadRequestError, "tiny")):
            try:
                more: Any = {} if wrong == "nobody" else {"extra_body": {"colour": "red"}}
                client.chat.completions.create(model=wrong, messages=USER, **more)
            except kind as error:
                assert error.type in ("not_found_error", "invalid_request_error")
            else:
                raise AssertionError(wrong)


if __name__ == "__main__":
    main(*sys.argv[1:3])
