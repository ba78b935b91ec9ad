"""LiteLLM by all of its ways to a server of one's own."""

import sys
from typing import Any

import litellm


def main(url: str, key: str) -> None:
    """Ask for what applications ask for."""
    asked: Any = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8,
                  "temperature": 0, "api_key": key}  # fmt: skip
    ways = {
        "openai/tiny": f"{url}/v1",
        "anthropic/tiny": url,
        "ollama_chat/tiny": url,
    }
    texts = set()
    for model, base in ways.items():
        headers = {"Authorization": f"Bearer {key}"} if "ollama" in model else {}
        answer = litellm.completion(model=model, api_base=base, extra_headers=headers, **asked)
        texts.add(answer.choices[0].message.content)
        pieces = litellm.completion(
            model=model, api_base=base, extra_headers=headers, stream=True, **asked
        )
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert text == answer.choices[0].message.content, model
    assert all(texts)


if __name__ == "__main__":
    main(*sys.argv[1:3])
