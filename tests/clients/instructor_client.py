"""Instructor: answers as types, by tools and by schema."""

import sys
from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel


class City(BaseModel):
    """A city to visit."""

    city: Literal["Paris", "Rome"]


def main(url: str, key: str) -> None:
    """Ask for what applications ask for."""
    with OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
            wrapped = instructor.from_openai(client, mode=mode)
            told = wrapped.chat.completions.create(
                model="tiny",
                response_model=City,
                messages=[{"role": "user", "content": "Where to?"}],
                max_retries=0,
            )
            assert told.city in ("Paris", "Rome")


if __name__ == "__main__":
    main(*sys.argv[1:3])
