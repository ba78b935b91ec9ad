"""What a checkpoint folder must not contain. Looks at bytes only: nothing here loads a model.

Code that a config names and that would be run, weights that are pickles, links that leave the
folder and safetensors files that lie about themselves are refused by name. Python files and pickles
beside safetensors weights are harmless: they are never read and not kept.
"""

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeGuard

from lmaas.errors import ModelRefused
from lmaas.frameworks import refuse_quantized
from lmaas.frameworks.refuse_quantized import KEY

MAX_HEADER_BYTES: Final = 100 << 20
"""As the safetensors format itself bounds it."""
MAX_CONFIG_BYTES: Final = 16 << 20
MAX_FILES: Final = 10_000
INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
PICKLES: Final = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack"}
AUTO_MAP: Final = "auto_map"
CODE_KEYS: Final = (AUTO_MAP, "custom_pipelines", "custom_generate")
LAYER_KEYS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
ITEM_BYTES: Final = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
    "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""The safetensors dtypes that are read, and the size of an element."""
EIGHT_BIT: Final = ("F8_E4M3", "F8_E5M2")
CONVERT: Final = "Save it where you trust it: model.save_pretrained(folder) writes safetensors."


def check(folder: Path) -> None:
    """Raise ModelRefused for a checkpoint that may not be loaded."""
    check_links(folder)
    check_configs(folder)
    weights = weight_files(folder)
    config = read_json(folder / "config.json", MAX_CONFIG_BYTES)
    tensors: dict[str, str] = {}
    for path in weights:
        for name, entry in header(path).items():
            if entry["dtype"] in EIGHT_BIT and not config.get(KEY):
                raise ModelRefused(
                    f"The tensor {name!a} has 8-bit floats, but config.json has no {KEY} that "
                    "tells what they mean.",
                    hint="Copy the config.json that belongs to these weights.",
                )
            if name in tensors:
                raise ModelRefused(f"The tensor {name!a} is in {tensors[name]} and in {path.name}.")
            tensors[name] = path.name
    if weights != [folder / SINGLE]:
        _check_index(folder, tensors)
    for key in LAYER_KEYS:
        layers = config.get(key)
        if isinstance(layers, int) and layers > len(tensors):
            raise ModelRefused(f"config.json tells of {layers} layers; the weights have "
                               f"{len(tensors)} tensors.")  # fmt: skip


def check_configs(folder: Path) -> None:
    """Raise ModelRefused for what the configs alone tell; the weights may still be missing."""
    for path in sorted(folder.rglob("*.json")):
        if path.name not in ("tokenizer.json", "vocab.json"):
            _check_config(path, _read(path, MAX_CONFIG_BYTES), folder)


def knows_type(folder: Path) -> bool:
    """Whether transformers itself has the type and the architecture that config.json names.

    Then an `auto_map` beside them means nothing: code of transformers' own is run in its place.
    """
    path = folder / "config.json"
    config = _read(path, MAX_CONFIG_BYTES) if path.is_file() else None
    if not isinstance(config, dict) or not _may_know(config.get("model_type")):
        return False
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    named = config.get("architectures")
    return config.get("model_type") in CONFIG_MAPPING_NAMES and (
        isinstance(named, list)
        and all(isinstance(name, str) and hasattr(transformers, name) for name in named)
    )


def _may_know(model_type: Any) -> bool:
    """Whether transformers is here and its table of types spells this one: told at once, where
    importing it takes seconds.
    """
    found = find_spec("transformers")
    if found is None or not found.origin or not isinstance(model_type, str):
        return False
    table = Path(found.origin).parent / "models" / "auto" / "configuration_auto.py"
    return not table.is_file() or json.dumps(model_type) in table.read_text("utf-8")


def without_code(value: Any) -> Any:
    """A config without any `auto_map`."""
    if isinstance(value, dict):
        return {key: without_code(each) for key, each in value.items() if key != AUTO_MAP}
    return [without_code(each) for each in value] if isinstance(value, list) else value


def check_links(folder: Path) -> None:
    """Raise ModelRefused for a link that leaves the folder, and for very many files."""
    root = folder.resolve()
    for number, path in enumerate(folder.rglob("*")):
        if number >= MAX_FILES:
            raise ModelRefused(f"{folder.name}/ holds more than {MAX_FILES} files.")
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise ModelRefused(
                f"{folder.name}/{path.relative_to(folder).as_posix()} links out of the folder.",
                hint="Copy the folder with its links followed (cp -rL) and push the copy.",
            )


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes. Raises ModelRefused."""
    value = _read(path, limit)
    if not isinstance(value, dict):
        raise ModelRefused(f"{path.name} must hold a JSON object; it holds a {_kind(value)}.")
    return value


def _read(path: Path, limit: int) -> Any:
    if path.stat().st_size > limit:
        raise ModelRefused(f"{path.name} has more than {limit} bytes.")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelRefused(f"{path.name} is not JSON: {str(error)[:200]}.") from None


def _check_config(path: Path, config: Any, folder: Path) -> None:
    stack: list[Any] = [config]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += value
        elif isinstance(value, dict):
            stack += value.values()
            for key in CODE_KEYS:
                if value.get(key) and not (key == AUTO_MAP and knows_type(folder)):
                    raise ModelRefused(
                        f"{path.name} has {key}: the checkpoint brings code of its own, which is "
                        "never run.",
                        hint="Only architectures that transformers itself has can be served.",
                    )
            for key, said in value.items():
                if key.endswith("_implementation") and isinstance(said, str) and "/" in said:
                    raise ModelRefused(f"{path.name} takes its {key} from elsewhere: {said!a}.")
    if path.name == "config.json" and isinstance(config, dict) and config.get(KEY):
        refuse_quantized.check(config[KEY])


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the model: the single one, or what the index names.

    Raises ModelRefused when there are none or a shard is missing.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise ModelRefused(
                f"{folder.name}/ has its weights as {pickles[0]}, which may run code when it is "
                "loaded; expected safetensors.",
                hint=CONVERT,
            )
        raise ModelRefused(
            f"{folder.name}/ has no weights: expected {SINGLE} or {INDEX}.", hint=CONVERT
        )
    placed = _weight_map(folder)
    shards = sorted(set(placed.values()))
    for name in shards:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelRefused(f"{INDEX} names {name!a}, which is no shard of the folder.")
        if not (folder / name).is_file():
            raise ModelRefused(
                f"The shard {name} is missing; {INDEX} names {len(shards)}.",
                hint="Copy all shards of the checkpoint.",
            )
    return [folder / name for name in shards]


def _weight_map(folder: Path) -> dict[str, str]:
    placed = read_json(folder / INDEX, MAX_HEADER_BYTES).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(
        isinstance(name, str) for name in placed.values()
    ):  # fmt: skip
        raise ModelRefused(f"{INDEX} has no weight_map.")
    return placed


def _check_index(folder: Path, tensors: dict[str, str]) -> None:
    placed = _weight_map(folder)
    for name in sorted(placed.keys() | tensors.keys()):
        if placed.get(name) != tensors.get(name):
            raise ModelRefused(
                f"{INDEX} says that {name!a} is in {placed.get(name)}; "
                f"it is in {tensors.get(name)}."
            )


def header(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a safetensors file: {name: {dtype, shape, data_offsets}}, all checked.

    Raises ModelRefused for a header that is too long, is no JSON, or whose tensors overlap, leave
    gaps, pass the end of the file or have a dtype that is not read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8 or length > MAX_HEADER_BYTES:
            raise ModelRefused(
                f"{path.name} is damaged: its header claims {length} bytes; the file has {size}."
            )
        raw = file.read(length)
    try:
        told = json.loads(raw, object_pairs_hook=_without_twice)
    except (ValueError, RecursionError) as error:
        raise ModelRefused(f"{path.name} has no valid header: {str(error)[:200]}.") from None
    if not isinstance(told, dict):
        raise ModelRefused(f"{path.name} has no valid header: it holds a {_kind(told)}.")
    told.pop("__metadata__", None)
    spans = sorted((*_span(path, name, entry), name) for name, entry in told.items())
    at = 0
    for start, end, name in spans:
        if start != at:
            raise ModelRefused(
                f"{path.name}: the tensor {name!a} begins at byte {start} of the data; expected "
                f"{at}: tensors overlap or leave a gap."
            )
        at = end
    if at != size - 8 - length:
        raise ModelRefused(
            f"{path.name} has {size - 8 - length} bytes of data; its tensors take {at}.",
            hint="The file may have been cut off: copy it again.",
        )
    return told


def _span(path: Path, name: str, entry: Any) -> tuple[int, int]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise ModelRefused(f"{path.name}: the tensor {name!a} has no valid shape and offsets.")
    dtype = entry.get("dtype")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ModelRefused(
            f"{path.name}: the tensor {name!a} has the dtype {dtype!a}; read are "
            f"{', '.join(ITEM_BYTES)}."
        )
    if offsets[1] - offsets[0] != math.prod(shape) * ITEM_BYTES[dtype]:
        raise ModelRefused(
            f"{path.name}: the tensor {name!a} of shape {shape} and dtype {dtype} does not take "
            f"{offsets[1] - offsets[0]} bytes."
        )
    return offsets[0], offsets[1]


def _counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)


def _without_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _kind(value: Any) -> str:
    return type(value).__name__


def stored_types(weights: list[Path]) -> dict[str, int]:
    """Bytes of weights by safetensors dtype ("F32", "BF16", …)."""
    types: dict[str, int] = {}
    for path in weights:
        for entry in header(path).values():
            start, end = entry["data_offsets"]
            types[entry["dtype"]] = types.get(entry["dtype"], 0) + end - start
    return types
