"""LangChain's embeddings: token ids are refused with a hint, texts are taken."""

import sys
from typing import Any

from langchain_ollama import OllamaEmbeddings
from langchain_openai import OpenAIEmbeddings


def main(url: str, key: str) -> None:
    """Ask for what applications ask for."""
    given: Any = {"model": "vectors", "base_url": f"{url}/v1", "api_key": key}
    texts = OpenAIEmbeddings(**given, check_embedding_ctx_length=False)
    vectors = texts.embed_documents(["one", "two"])
    assert len(vectors) == 2
    headers = {"headers": {"Authorization": f"Bearer {key}"}}
    others = OllamaEmbeddings(model="vectors", base_url=url, client_kwargs=headers)
    again = others.embed_documents(["one", "two"])
    assert max(abs(a - b) for a, b in zip(vectors[1], again[1], strict=True)) < 1e-4


if __name__ == "__main__":
    main(*sys.argv[1:3])
