"""`lmaas.train`, and what the command line shares with it: recipe files, a server for a run."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from lmaas import tasks
from lmaas.client import Client
from lmaas.config import Settings, load_settings
from lmaas.errors import InvalidInput
from lmaas.job import Job, StoredEvent
from lmaas.own_server import local
from lmaas.recipe import Recipe, recipe_of
from lmaas.registry.lock import HomeLock
from lmaas.service import Service
from lmaas.types import TENANT, PushOptions

KEY_NAME = "lmaas.train"
MAX_RECIPE_BYTES = 1 << 20


def train(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    home: str | Path | None = None,
    url: str | None = None,
    key: str | None = None,
    priority: int = 0,
    heard: Callable[[StoredEvent], None] = lambda _: None,
    **fields: Any,
) -> Job:
    """Train a model, register it, and return its job.

    `recipe` is a `Recipe`, a mapping or a YAML file; `fields` are keys of a recipe that replace
    its own: `lmaas.train(name="digits", task="image-classification", data={"train": "digits/"})`.
    `heard` is told each event. The run happens at the server at `url` (or LMAAS_URL), else at the
    live server of `home` (or LMAAS_HOME), else at one that is started for it. To a server at a URL
    data files are sent; folders are paths of that server. `model.base` may be a checkpoint's folder
    on this machine: it is pushed first. Raises the error that the job failed
    with, Cancelled when somebody cancelled it; a job that somebody paused is returned as it is.
    """
    settings = load_settings({"home": home and str(home), "url": url, "key": key})
    remote = settings.url is not None and (url is not None or home is None)
    if not remote:
        settings = msgspec.structs.replace(settings, url=None)
    chosen = make_recipe(recipe, fields, here=not remote)
    with server_for(settings) as client:
        if remote:
            chosen = send_data(client, chosen)
        chosen = push_base(client, chosen)
        job = client.train(chosen, priority=priority)
        return client.wait_for_job(job.id, heard)


def make_recipe(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str] | None,
    fields: Mapping[str, Any],
    *,
    here: bool,
) -> Recipe:
    """One recipe of a base and what replaces its keys. Raises InvalidInput naming the key.

    `here`: paths of this machine become absolute.
    """
    if isinstance(recipe, str | os.PathLike):
        plain = read_recipe(Path(recipe))
    else:
        plain = {} if recipe is None else dict(msgspec.to_builtins(recipe))
    made = recipe_of({**plain, **msgspec.to_builtins(dict(fields))})
    if not here:
        return made
    data = made.data
    paths = {
        split: str(Path(value).absolute())
        for split in ("train", "validation", "test")
        if isinstance(value := getattr(data, split), str) and Path(value).exists()
    }
    return msgspec.structs.replace(made, data=msgspec.structs.replace(data, **paths))


def read_recipe(path: Path) -> dict[str, Any]:
    """A YAML (or JSON) file as plain data. Raises InvalidInput."""
    import yaml

    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise InvalidInput(
                f"The recipe {path} has more than {MAX_RECIPE_BYTES} bytes.", param="recipe"
            )
        value = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise InvalidInput(f"The recipe {path} cannot be read: {told}.", param="recipe") from None
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise InvalidInput(
            f"The recipe {path} is no mapping of keys to values.",
            hint="`lmaas train --schema` prints what a recipe may say.",
            param="recipe",
        )
    return value


def send_data(client: Client, recipe: Recipe) -> Recipe:
    """The recipe with the ids of the data files of this machine, which are sent to the server.

    Folders, and paths that are not here, stay what they are: paths of the server. Texts in another
    encoding are sent as UTF-8. Raises InvalidInput where only some of such files are here.
    """
    data = recipe.data
    named = {
        split: value
        for split in ("train", "validation", "test")
        if isinstance(value := getattr(data, split), str)
    }
    paths = {split: value for split, value in named.items() if Path(value).is_file()}
    if not paths:
        return recipe
    if data.encoding is not None and len(paths) < len(named):
        raise InvalidInput(
            f"{', '.join(sorted(named.keys() - paths.keys()))} is not a file of this machine, so "
            "data.encoding would be that of some files only.",
            hint="Give all files as UTF-8.",
            param="data.encoding",
        )
    with tempfile.TemporaryDirectory(prefix="lmaas-") as scratch:
        sent = {
            path: client.upload_file(_as_utf8(Path(path), data.encoding, Path(scratch)))
            for path in set(paths.values())
        }
    ids = {split: sent[path] for split, path in paths.items()}
    return msgspec.structs.replace(recipe, data=msgspec.structs.replace(data, **ids, encoding=None))


def _as_utf8(path: Path, encoding: str | None, scratch: Path) -> Path:
    """The file itself, or where it has another encoding a copy that is UTF-8, of the same name."""
    from lmaas.data.lines import GZIP, check_encoding, lines

    if encoding is None:
        return path
    copy = scratch / str(len(list(scratch.iterdir()))) / path.name
    if copy.suffix.lower() == GZIP:
        copy = copy.with_suffix("")
    copy.parent.mkdir()
    with copy.open("w", encoding="utf-8", newline="") as file:
        file.writelines(line for _, line in lines(path, check_encoding(encoding)))
    return copy


def push_base(client: Client, recipe: Recipe) -> Recipe:
    """The recipe with a base that is a folder of this machine pushed: a Hugging Face checkpoint.

    It is registered as the model's name with "-base" at its end. Other bases stay what they are.
    """
    base = recipe.model.base
    if base is None or not Path(base).is_dir():
        return recipe
    options = PushOptions(name=f"{recipe.name}-base", task=tasks.trained()[recipe.task].base_task)
    pushed = client.push(Path(base), options)
    model = msgspec.structs.replace(recipe.model, base=pushed.ref)
    return msgspec.structs.replace(recipe, model=model)


@contextmanager
def server_for(settings: Settings) -> Iterator[Client]:
    """A client of the named server, of this home's live one, or of one for the time of the block.

    Whoever can write the home can make keys in it: for the live server one is made and revoked.
    """
    if settings.url is not None:
        with Client(settings.url, settings.key) as client:
            yield client
        return
    live = (HomeLock.read(settings.home_path) or {}).get("url")
    if live is None:
        with local(settings.home_path) as client:
            yield client
        return
    with closing(Service(settings)) as service:
        record, key = service.create_key(TENANT, KEY_NAME, ("admin", "call"))
        try:
            with Client(str(live), key) as client:
                yield client
        finally:
            service.revoke_key(TENANT, record.id)
