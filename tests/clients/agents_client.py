"""OpenAI's Agents: over chat completions and over responses."""

import sys
from typing import Any, Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel


class City(BaseModel):
    """A city to visit."""

    city: Literal["Paris", "Rome"]


def main(url: str, key: str) -> None:
    """Ask for what applications ask for."""
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
    models: list[Any] = [
        OpenAIChatCompletionsModel("tiny", client),
        OpenAIResponsesModel("tiny", client),
    ]
    for model in models:
        agent: Any = Agent(
            name="a",
            instructions="Help.",
            model=model,
            model_settings=ModelSettings(temperature=0),
            output_type=City,
        )
        assert Runner.run_sync(agent, "hello").final_output.city in ("Paris", "Rome")


if __name__ == "__main__":
    main(*sys.argv[1:3])
