"""`huggingface_hub`'s InferenceClient: text generation and chat; the tests have the other tasks."""

import sys

from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError, ValidationError


def main(url: str, key: str) -> None:
    """Ask for what applications ask for."""
    client = InferenceClient(model=f"{url}/models/tiny", token=key)
    text = client.text_generation("hello world", max_new_tokens=8)
    assert "".join(client.text_generation("hello world", max_new_tokens=8, stream=True)) == text
    told = client.text_generation("hello world", max_new_tokens=8, details=True)
    assert told.details is not None
    assert told.details.generated_tokens == 8
    answer = client.chat_completion([{"role": "user", "content": "hello"}], max_tokens=8)
    assert answer.choices[0].message.content
    for kind, ask in (
        (ValidationError, lambda: client.text_generation("hello", watermark=True)),
        (BadRequestError, lambda: client.zero_shot_classification("hello", ["a", "b"])),
    ):
        try:
            ask()
        except kind as error:
            assert "text-generation" in str(error)
        else:
            raise AssertionError(kind)


if __name__ == "__main__":
    main(*sys.argv[1:3])
