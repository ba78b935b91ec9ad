"""How a hub's model is named, and which of its files a checkpoint needs."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from lmaas.errors import InvalidInput, ModelRefused
from lmaas.frameworks.checkpoint import KEPT
from lmaas.frameworks.ctranslate2 import WEIGHTS as CTRANSLATE2
from lmaas.frameworks.refuse_checkpoint import CONVERT, INDEX, PICKLES, SINGLE
from lmaas.registry.names import check_name, show
from lmaas.types import Record

PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
MAX_NAME = 255
MAX_CARD_BYTES = 1 << 20
"""A longer README.md is not taken as the model's card."""
CARD = "README.md"
LICENSES = ("", ".txt", ".md")
OTHER_FORMATS = (".gguf", ".onnx", ".tflite", ".mlmodel")
CTRANSLATE2_BESIDE = ("vocabulary.json", "vocabulary.txt")
"""What CTranslate2 has beside its weights; elsewhere a file of their name is a pickle."""
ODD = re.compile(r"[\x00-\x1f\x7f\\]")


class HubRef(Record, frozen=True, kw_only=True):
    """`ORG/NAME@revision`, taken apart; without a revision the hub's main one."""

    repo: str
    revision: str

    @property
    def folder(self) -> str:
        """The repository's name as that of a folder."""
        return self.repo.replace("/", "--")


class HubFile(Record, frozen=True, kw_only=True):
    """One file at a commit, as the hub tells it. `sha256` is of the content.

    A small file has only git's `blob_sha1`: of "blob", its size in bytes, a zero, and the content.
    """

    name: str
    size_bytes: int
    sha256: str | None
    blob_sha1: str

    @property
    def is_weights(self) -> bool:
        """Whether the file holds tensors."""
        return self.name.endswith(".safetensors") or self.name == CTRANSLATE2


def parse_ref(text: str) -> HubRef:
    """`ORG/NAME` or `ORG/NAME@revision`. Raises InvalidInput."""
    repo, at, revision = text.partition("@")
    parts = repo.split("/")
    fits = len(parts) == 2 and all(PART.fullmatch(part) for part in parts)
    if not fits or "--" in repo or ".." in repo:
        raise InvalidInput(
            f"{show(text)} does not name a model of a hub.",
            hint="Write ORG/NAME, or ORG/NAME@revision.",
            param="repo",
        )
    if at and (not revision or len(revision) > MAX_NAME or not revision.isprintable()):
        raise InvalidInput(
            f"{show(text)} has no valid revision after the @.",
            hint="A revision is a branch, a tag or a commit.",
            param="repo",
        )
    return HubRef(repo=repo, revision=revision or "main")


def default_name(ref: HubRef) -> str:
    """What the model is called here when nobody says: the hub's NAME in lower case."""
    return check_name(ref.repo.partition("/")[2].lower())


def choose(ref: HubRef, files: Sequence[HubFile]) -> list[HubFile]:
    """The files to download, weights last. Raises ModelRefused.

    Only what a checkpoint is served from: safetensors (or what CTranslate2 has), configs, the
    tokenizer, card and license.
    """
    listed: dict[str, HubFile] = {}
    for file in files:
        _check_file_name(ref, file.name)
        if file.name in listed:
            raise ModelRefused(f"{ref.repo} lists {show(file.name)} twice.")
        listed[file.name] = file
    if "config.json" not in listed:
        raise ModelRefused(
            f"{ref.repo} has no config.json, so it is no checkpoint of transformers.",
            hint="Its page on the hub says how it is used.",
        )
    chosen = [file for file in files if _is_kept(file)]
    return chosen + _weights(ref, listed)


def _check_file_name(ref: HubRef, name: str) -> None:
    path = PurePosixPath(name)
    climbs = path.is_absolute() or ".." in path.parts or path.as_posix() != name
    if climbs or not path.parts or ODD.search(name) or any(len(p) > MAX_NAME for p in path.parts):
        raise ModelRefused(f"{ref.repo} lists a file that leaves its folder: {show(name)}.")


def _is_kept(file: HubFile) -> bool:
    path = PurePosixPath(file.name)
    if file.name == CARD:
        return file.size_bytes <= MAX_CARD_BYTES
    if path.name.startswith("LICENSE") and path.suffix.lower() not in LICENSES:
        return False
    return any(p.count("/") == file.name.count("/") and fnmatchcase(file.name, p) for p in KEPT)


def _weights(ref: HubRef, listed: dict[str, HubFile]) -> list[HubFile]:
    if SINGLE in listed:
        return [listed[SINGLE]]
    if INDEX in listed:
        # Some repositories hold all weights a second time under this name, for another engine.
        shards = [
            file
            for name, file in listed.items()
            if file.is_weights and "/" not in name and not name.startswith("consolidated")
        ]
        if shards:
            return [listed[INDEX], *shards]
    if CTRANSLATE2 in listed and any(name in listed for name in CTRANSLATE2_BESIDE):
        return [listed[CTRANSLATE2]]
    for name in listed:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in PICKLES:
            raise ModelRefused(
                f"{ref.repo} has its weights only as {show(name)}, which may run code when it is "
                "loaded; expected safetensors. Nothing was downloaded.",
                hint=f"Look for a revision with safetensors. {CONVERT}",
            )
        if suffix in OTHER_FORMATS:
            raise ModelRefused(
                f"{ref.repo} has its weights only as {show(name)}; expected safetensors.",
                hint="Pull the model it was made from.",
            )
    raise ModelRefused(f"{ref.repo} has no weights: expected {SINGLE} or {INDEX}.")
