"""LangChain by all three of its ways to a model: OpenAI's, Anthropic's and Ollama's."""

import sys
from typing import Any, Literal

from langchain_anthropic import ChatAnthropic
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class City(BaseModel):
    """A city to visit."""

    city: Literal["Paris", "Rome"]


def main(url: str, key: str) -> None:
    """Ask for what applications ask for."""
    headers = {"headers": {"Authorization": f"Bearer {key}"}}
    chats: list[Any] = [
        ChatOpenAI(model="tiny", base_url=f"{url}/v1", api_key=key, temperature=0, max_retries=0),
        ChatAnthropic(model="tiny", base_url=url, api_key=key, temperature=0, max_retries=0),
        ChatOllama(model="tiny", base_url=url, client_kwargs=headers, temperature=0),
    ]
    for chat in chats:
        most = "num_predict" if isinstance(chat, ChatOllama) else "max_tokens"
        short = chat.model_copy(update={most: 8})
        whole = short.invoke("hello world").content
        pieces = [piece.content for piece in short.stream("hello world")]
        texts = [p if isinstance(p, str) else "".join(b.get("text", "") for b in p) for p in pieces]
        assert "".join(texts) == whole, (texts, whole)
        told = chat.with_structured_output(City, method="json_schema").invoke("Where to?")
        assert told.city in ("Paris", "Rome")
    for chat in chats[:2]:
        called = chat.bind_tools([City], tool_choice="any").invoke("Where to?")
        assert called.tool_calls[0]["args"]["city"] in ("Paris", "Rome")


if __name__ == "__main__":
    main(*sys.argv[1:3])
