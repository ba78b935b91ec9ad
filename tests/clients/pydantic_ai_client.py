"""Pydantic AI: typed answers over OpenAI's chat and Anthropic's messages."""

import sys
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class City(BaseModel):
    """A city to visit."""

    city: Literal["Paris", "Rome"]


def main(url: str, key: str) -> None:
    """Ask for what applications ask for."""
    models: list[Any] = [
        OpenAIChatModel("tiny", provider=OpenAIProvider(base_url=f"{url}/v1", api_key=key)),
        AnthropicModel("tiny", provider=AnthropicProvider(base_url=url, api_key=key)),
    ]
    for model in models:
        told = Agent(model, output_type=City).run_sync("Where to?").output
        assert told.city in ("Paris", "Rome")
    told = Agent(models[0], output_type=NativeOutput(City)).run_sync("Where to?").output
    assert told.city in ("Paris", "Rome")


if __name__ == "__main__":
    main(*sys.argv[1:3])
