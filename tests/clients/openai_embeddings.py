"""The `openai` package's embeddings."""

import sys

from openai import BadRequestError, OpenAI


def main(url: str, key: str) -> None:
    """Ask for what applications ask for."""
    with OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        told = client.embeddings.create(model="vectors", input=["one", "two"])
        assert len(told.data) == 2
        plain = client.embeddings.create(model="vectors", input="one", encoding_format="float")
        assert max(abs(a - b) for a, b in zip(told.data[0].embedding, plain.data[0].embedding, strict=True)) < 1e-5  # fmt: skip  # noqa: E501
        try:
            client.embeddings.create(model="vectors", input=[[9906, 1917]])
        except BadRequestError as error:
            assert "check_embedding_ctx_length" in str(error)
        else:
            raise AssertionError("token ids of another tokenizer were taken")


if __name__ == "__main__":
    main(*sys.argv[1:3])
