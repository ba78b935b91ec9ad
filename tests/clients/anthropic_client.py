"""The `anthropic` package: messages, streams, tools, parse, prefill, threads, models, counting."""

import sys
from typing import Any, Literal

from anthropic import Anthropic, BadRequestError
from pydantic import BaseModel

USER: Any = {"role": "user", "content": "hello world"}
TOOL: Any = {
    "name": "visit",
    "description": "Visit a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "eager_input_streaming": True,
}


class City(BaseModel):
    """What is to be answered."""

    city: Literal["Paris", "Rome"]


def main(url: str, key: str) -> None:
    """Ask for what applications ask for."""
    with Anthropic(base_url=url, api_key=key, max_retries=0) as client:
        asked: Any = {"model": "tiny", "messages": [USER], "max_tokens": 16_384}
        greedy: Any = {"extra_body": {"temperature": 0}}
        short: Any = {**asked, "max_tokens": 8, **greedy}
        whole = client.messages.create(**short)
        with client.messages.stream(**short) as stream:
            streamed = stream.get_final_message()
        assert [b.text for b in streamed.content if b.type == "text"] == [
            b.text for b in whole.content if b.type == "text"
        ]
        assert client.beta.messages.create(**short).usage.output_tokens == 8
        parsed = client.messages.parse(**asked, output_format=City)
        assert parsed.parsed_output is not None
        choice: Any = {"type": "any", "disable_parallel_tool_use": True}
        with client.beta.messages.stream(**asked, tools=[TOOL], tool_choice=choice) as tools:
            (block,) = [b for b in tools.get_final_message().content if b.type == "tool_use"]
        assert City.model_validate(block.input)
        begun: Any = [USER, {"role": "assistant", "content": "It is"}]
        assert client.messages.create(**{**short, "messages": begun}).content
        assert client.messages.count_tokens(model="tiny", messages=[USER]).input_tokens > 0
        assert [model.id for model in client.models.list(limit=1)]
        try:
            client.messages.create(**short, service_tier="auto", container="x")
        except BadRequestError as error:
            assert "container" in str(error)
        else:
            raise AssertionError("a container was taken")


if __name__ == "__main__":
    main(*sys.argv[1:3])
