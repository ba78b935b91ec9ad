"""Run by `test_stock_clients` with the oldest `openai` that is supported; given URL and key."""

import json
import sys
from typing import Any

import openai
import pytest

USER: Any = [{"role": "user", "content": "hello world"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
TOOL: Any = {"type": "function", "function": {"name": "visit", "parameters": SCHEMA}}


def main(url: str, key: str) -> None:
    """Ask for what applications ask for."""
    assert openai.__version__ == "2.0.0", openai.__version__
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        assert "tiny" in [model.id for model in client.models.list()]
        asked: dict[str, Any] = {"model": "tiny", "messages": USER, "temperature": 0}
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
        made = client.chat.completions.create(**asked, max_tokens=300, response_format=FORMAT)
        assert json.loads(made.choices[0].message.content or "")["city"] in ("Paris", "Rome")
        called = client.chat.completions.create(
            **asked, max_tokens=300, tools=[TOOL], tool_choice="required"
        )
        call = (called.choices[0].message.tool_calls or [])[0]
        assert call.type == "function"
        assert call.function.name == "visit"
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
        assert client.completions.create(model="tiny", prompt="hello", max_tokens=2).choices
        answer = client.responses.create(model="tiny", input="hello", max_output_tokens=16)
        assert answer.output_text
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**asked, max_tokens=2**31)
        assert refused.value.param == "max_tokens"


if __name__ == "__main__":
    main(*sys.argv[1:])
