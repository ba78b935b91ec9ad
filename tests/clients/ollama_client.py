"""The `ollama` package: chat, generate, tools, formats, models."""

import json
import sys
from typing import Any

from ollama import Client

USER = {"role": "user", "content": "hello world"}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def visit(city: str) -> str:
    """Visit a city.

    Args:
      city: The city.
    """
    return city


def main(url: str, key: str) -> None:
    """Ask for what applications ask for."""
    client: Any = Client(host=url, headers={"Authorization": f"Bearer {key}"})
    options = {"temperature": 0, "num_predict": 8}
    whole = client.chat(model="tiny", messages=[USER], options=options)
    pieces = list(client.chat(model="tiny", messages=[USER], options=options, stream=True))
    assert "".join(piece.message.content for piece in pieces) == whole.message.content
    assert pieces[-1].eval_count == 8
    assert client.generate(model="tiny", prompt="hello", options=options).response
    formed = client.chat(model="tiny", messages=[USER], format=SCHEMA, options={"seed": 1})
    assert json.loads(formed.message.content)["city"] in ("Paris", "Rome")
    assert client.chat(model="tiny", messages=[USER], tools=[visit], options=options).done
    assert "tiny:latest" in [model.model for model in client.list().models]
    assert "completion" in client.show("tiny").capabilities
    assert client.ps().models


if __name__ == "__main__":
    main(*sys.argv[1:3])
