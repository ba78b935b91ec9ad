"""Which protocol a path belongs to, and what to tell who comes to a path that is none.

Knows no handlers: it reads paths and one header, and is told which routes there are.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Final, Literal

Door = Literal[
    "openai", "anthropic", "huggingface", "oip", "ollama", "libretranslate", "compreface", "own"
]

ANTHROPIC: Final = b"anthropic-version"
"""What each client of Anthropic sends. Some of its paths are OpenAI's too (`/v1/models`)."""
OLLAMA: Final = frozenset(
    f"/api/{name}"
    for name in (
        "blobs", "chat", "copy", "create", "delete", "embed", "embeddings", "generate", "me",
        "ps", "pull", "push", "show", "tags", "version",
    )
)  # fmt: skip
"""Ollama's paths, those that are not served too. What else lies below /api/ is our own."""
LIBRETRANSLATE: Final = frozenset(("/translate", "/detect", "/languages"))
COMPREFACE: Final = tuple(
    f"/api/v1/{name}/" for name in ("recognition", "detection", "verification")
)
SHOWN: Final = 12
BASES: Final = {
    "openai": "An OpenAI client's base_url ends with /v1.",
    "anthropic": "An Anthropic client's base_url is the server's own address, without /v1.",
    "huggingface": "A Hugging Face client's model is this server's address with /models/NAME.",
    "oip": "A model's calls go to /v2/models/NAME/infer.",
    "ollama": "Models are made and removed with `lmaas`, or over the routes below /api/models.",
    "libretranslate": "A LibreTranslate client's url is the server's own address.",
    "compreface": "A CompreFace client's domain and port are the server's own.",
    "own": "GET /openapi.json lists the routes.",
}
"""The commonest reason why a client comes to a path that is none."""


def door_of(path: str, headers: Mapping[bytes, bytes] | None = None) -> Door:
    """The protocol of `path`, as its clients know it."""
    if path.startswith("/v1/messages"):
        return "anthropic"
    if path.startswith("/models/"):
        return "huggingface"
    if path in LIBRETRANSLATE:
        return "libretranslate"
    if path == "/v2" or path.startswith("/v2/"):
        return "oip"
    if path.startswith(COMPREFACE):
        return "compreface"
    if path.startswith("/api/"):
        return "ollama" if "/".join(path.split("/", 3)[:3]) in OLLAMA else "own"
    return "anthropic" if headers and ANTHROPIC in headers else "openai"


def hint_for(path: str, door: Door, known: Iterable[str]) -> str:
    """What to do about a path that is no route: the route that was meant, or why there is none."""
    here = [route for route in known if door_of(route) == door]
    asked = path[:200]
    for route in known:
        # A base_url with too much or too little in it.
        if "{" not in route and len(asked) > 4 and (asked.endswith(route) or route.endswith(asked)):
            return f"Did you mean {route}? {BASES[door]}"
    close = difflib.get_close_matches(asked, here, n=1, cutoff=0.85)
    if close:
        return f"Did you mean {close[0]}?"
    listed = ", ".join(route for route in here if "{" not in route[1:])
    return f"{BASES[door]} Served are {listed}." if listed and len(here) <= SHOWN else BASES[door]
