"""Writes docs/reference from the code: settings, routes, command line, errors, Python, training.

`make docs` runs it; a test fails when what it would write is not what is there.
"""

import ast
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from lmaas import client, config, errors, recipe, tasks, types
from lmaas.cli import cli
from lmaas.cli.errors import EXIT_CODES_TEXT, exit_code_of
from lmaas.client.calls import Calls
from lmaas.config import Settings
from lmaas.data.augmentation import audio
from lmaas.http import openapi
from lmaas.http.errors import status_of
from lmaas.http.routes import ROUTES
from lmaas.recipe import EarlyStopping
from lmaas.training.early_stopping import mode_of
from lmaas.training.schema import STEPS

NOTE = "<!-- Written by docs/generate.py (`make docs`); change the code, not this page. -->\n"


def settings() -> str:
    """Every setting with its type, default and meaning."""
    meant = _field_docs(inspect.getsource(config), "Settings")
    lines = [
        "# Settings",
        "",
        "A flag of the command line wins over the environment variable `LMAAS_<NAME>`, that over "
        "`lmaas.toml` in the working directory (or the file that `LMAAS_CONFIG` names), that over "
        "the default. Unknown names are refused. Sizes are bytes, times seconds; lists are "
        "separated by commas in the environment.",
        "",
        "| setting | default | meaning |",
        "|---|---|---|",
    ]
    for field in msgspec.structs.fields(Settings):
        default = "none" if field.default is None else f"`{field.default}`"
        if field.default in ("", ()):
            default = "empty"
        lines.append(f"| `{field.name}` | {default} | {_cell(meant[field.name])} |")
    return "\n".join(lines) + "\n"


def _field_docs(source: str, name: str) -> dict[str, str]:
    """The docstring under each field of a class."""
    body = next(
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert isinstance(text.value, ast.Constant)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def routes() -> str:
    """Every route with its scope, body and answer."""
    lines = [
        "# Routes",
        "",
        "Keys are sent as `Authorization: Bearer sk-lmaas-…` or `x-api-key`. A key with the scope "
        "`admin` may do everything. The types are in `GET /openapi.json`, and on the page "
        "`GET /docs`. In a path, `{ref}` is `name` (the latest version), `name:3` or "
        "`name@alias`. Query parameters that are not named here are refused.",
        "",
        "| route | scope | body | does |",
        "|---|---|---|---|",
    ]
    for path, operations in openapi.document(ROUTES)["paths"].items():
        for method, told in operations.items():
            scope = told.get("description", "no key").rpartition(" ")[2].rstrip(".")
            scope = "none" if "security" in told else scope
            body = ", ".join(f"`{kind}`" for kind in told.get("requestBody", {}).get("content", ()))
            query = [p["name"] for p in told["parameters"] if p["in"] == "query"]
            target = path + (f"?{'&'.join(query)}" if query else "")
            summary = told["summary"].splitlines()[0]
            lines.append(f"| `{method.upper()} {target}` | {scope} | {body} | {_cell(summary)} |")
    return "\n".join(lines) + "\n"


def command_line() -> str:
    """Every command with its options."""
    lines = ["# Command line", "", EXIT_CODES_TEXT.replace("\n", " "), ""]
    context = click.Context(cli, info_name="lmaas")
    lines += _command(cli, context)
    return "\n".join(lines).rstrip() + "\n"


def _command(command: click.Command, context: click.Context) -> list[str]:
    lines = [f"## {context.command_path}", "", inspect.cleandoc(command.help or ""), "", "```"]
    lines.append(" ".join([context.command_path, *command.collect_usage_pieces(context)]))
    records = [p.get_help_record(context) for p in command.get_params(context)]
    lines += [f"  {name:32} {text}".rstrip() for name, text in filter(None, records)]
    lines += ["```", ""]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            lines += _command(inner, click.Context(inner, info_name=name, parent=context))
    return lines


def error_codes() -> str:
    """Every error with its code, HTTP status and exit code."""
    lines = [
        "# Errors",
        "",
        "Each has a message that says what is wrong, what was expected and what was received, and "
        "where it helps a hint that says what to do next. The code is stable.",
        "",
        "| code | Python | HTTP | exit | meaning |",
        "|---|---|--:|--:|---|",
    ]
    for code, kind in errors.BY_CODE.items():
        error = kind("")
        meaning = (kind.__doc__ or "").splitlines()[0]
        lines.append(
            f"| `{code}` | `{kind.__name__}` | {status_of(error)} | {exit_code_of(error)} "
            f"| {_cell(meaning)} |"
        )
    lines += [
        "",
        "What a request has wrong is a 4xx within a second, while others are answered. Two things "
        "take longer: which tensors a checkpoint lacks or has too many is known once its "
        "architecture's code is loaded, some seconds; and a hub that breaks off is asked again, "
        "from where it stopped, for some seconds. A fault of the hub or of the server is no 4xx, "
        "as the caller can do nothing about it: 502 when a file has not the digest that the hub "
        "told, 503 when the hub keeps breaking off, 507 when the server's disk is full. What was "
        "downloaded stays, and the next pull goes on with it.",
    ]
    return "\n".join(lines) + "\n"


def python() -> str:
    """What `import lmaas` gives."""
    import lmaas

    lines = ["# Python", ""]
    for name in sorted(set(lmaas.__all__) - {"__version__"}):
        lines += _described(f"lmaas.{name}", getattr(lmaas, name))
    lines += ["## PublishOptions", "", "What `publish` takes beside name, task and sample.", ""]
    for name, text in _field_docs(inspect.getsource(types), "PublishOptions").items():
        lines.append(f"- `{name}`: {text}")
    lines += ["", "## Client", "", "`AsyncClient` has the same methods, to be awaited.", ""]
    for name, method in (vars(Calls) | vars(client.Client)).items():
        if not name.startswith("_"):
            lines += _described(f"Client.{name}", getattr(method, "call", method), "###")
    return "\n".join(lines).rstrip() + "\n"


def _described(name: str, value: Any, level: str = "##") -> list[str]:
    text = inspect.getdoc(value) or ""
    return [f"{level} {name}", "", "```python", name + _signature(value), "```", "", text, ""]


def _signature(value: Any) -> str:
    """As the source has it, so that it is the same with every Python version."""
    if inspect.isclass(value):
        given = inspect.signature(value).parameters.values()
        shown = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in given]
        return f"({', '.join(shown)})"
    node = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    assert isinstance(node, ast.FunctionDef)
    for arguments in (node.args.posonlyargs, node.args.args):
        arguments[:] = [argument for argument in arguments if argument.arg != "self"]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    # A call is written as a generator of requests; what it returns is what its caller gets.
    returns = re.sub(r"^ -> Call\[(.*)\]$", r" -> \1", returns)
    return f"({ast.unparse(node.args)}){returns}"


def training() -> str:
    """What a recipe may say: every key, and by task all that its free parts know."""
    lines = [
        "# Training",
        "",
        "A recipe is the same in YAML, Python and HTTP. `lmaas train --schema` and "
        "`GET /api/recipes/schema` give all of this as a JSON schema. Unknown keys are refused; "
        'what is "auto" is resolved when the run starts, and told.',
        "",
        *_record("Recipe", recipe.Recipe),
        *_record("data", recipe.DataChoice),
        *_record("model", recipe.ModelChoice),
        *_record("method", recipe.Method, recipe.READ_BY_METHOD),
        *_record("optimizer", recipe.Optimizer, recipe.READ_BY_OPTIMIZER),
        *_record("schedule", recipe.Schedule, recipe.READ_BY_SCHEDULE),
        *_record("pruning", recipe.Pruning, recipe.READ_BY_PRUNING),
        *_record("early_stopping", recipe.EarlyStopping),
        *_record("augmentation", recipe.Transform),
        *_record("adapter", recipe.Adapter),
        *_record("distribution", recipe.Distribution),
        *_record("checkpoints", recipe.Checkpoints),
        *_record("evaluation", recipe.Evaluation),
    ]
    for task, told in tasks.trained().items():
        known, steps = told.architectures, STEPS[told.augments]
        fields = ", ".join(f"`{field}`" for field in told.columns) or "none: samples say all"
        lines += [f"## {task}", "", f"Fields for `data.columns`: {fields}.", ""]
        lines += _record("data.options", told.options, level="###")
        first = next(iter(known))
        lines += ["### Architectures", "", f'"auto" is `{first}`.', ""]
        lines += _choices(known.items())
        if steps:
            lines += ["### Augmentations", "", *_choices(steps.items())]
        lines += ["### Metrics", "", "| metric | better | meaning |", "|---|---|---|"]
        for name, meaning in tasks.spec(task).metrics.items():
            better = {"min": "lower", "max": "higher"}[mode_of(EarlyStopping(metric=name))]
            lines.append(f"| `{name}` | {better} | {meaning} |")
        lines.append("")
    lines += [
        "## Audio",
        "",
        "Augmentations of waves and spectrograms; no task takes them yet.",
        "",
    ]
    lines += _choices(audio.STEPS.items())
    return "\n".join(lines).rstrip() + "\n"


def task_pages() -> str:
    """What each task takes and gives, and what may be said to it."""
    lines = [
        "# Tasks",
        "",
        "What a model does. `lmaas push`, `lmaas pull` and `lmaas train` take the name as "
        "`--task`; `POST /models/{ref}` answers a model's own task, and "
        "`POST /models/{ref}/pipeline/{task}` takes Hugging Face's name of it too.",
        "",
        "| task | takes | gives | trained | checkpoints | Hugging Face |",
        "|---|---|---|---|---|---|",
    ]
    for spec in tasks.specs():
        trained = f"[yes](training.md#{spec.name})" if spec.training else "no"
        endings = spec.checkpoint.endings if spec.checkpoint else ()
        told = ", ".join(f"`…{ending}`" for ending in endings) or "none"
        names = ", ".join(f"`{name}`" for name in spec.pipelines) or "none"
        lines.append(
            f"| `{spec.name}` | {spec.takes} | {spec.gives} | {trained} | {told} | {names} |"
        )
    for spec in tasks.specs():
        fields = ", ".join(f"`{field}`" for field in spec.fields) or "the model's own"
        lines += ["", f"## {spec.name}", "", f"Fields of a row for `lmaas predict`: {fields}.", ""]
        if spec.parameters is not None:
            lines += [inspect.getdoc(spec.parameters) or "", ""]
            lines += [
                "| parameter | takes | default |",
                "|---|---|---|",
                *_rows(spec.parameters),
                "",
            ]
        if spec.roles:
            lines += ["A model may be a [pipeline](../pipelines.md) of others.", ""]
            lines += ["| part | a model for | what it does |", "|---|---|---|"]
            for role in spec.roles:
                kinds = ", ".join(f"`{name}`" for name in role.tasks)
                left_out = "" if role.required else " (may be left out)"
                lines.append(f"| `{role.name}`{left_out} | {kinds} | {role.does} |")
            lines.append("")
        lines += ["| metric | meaning |", "|---|---|"]
        lines += [f"| `{name}` | {meaning} |" for name, meaning in spec.metrics.items()]
        lines += ["", f"Models are compared by `{spec.primary}`."]
    return "\n".join(lines) + "\n"


def _record(
    title: str,
    kind: type[msgspec.Struct],
    read_by: Mapping[str, Iterable[str]] | None = None,
    level: str = "##",
) -> list[str]:
    """A record with its fields; `read_by` says which of them each choice reads."""
    lines = [f"{level} {title}", "", inspect.getdoc(kind) or "", ""]
    lines += ["| key | takes | default |", "|---|---|---|", *_rows(kind), ""]
    if read_by is not None:
        some = {name for names in read_by.values() for name in names}
        lines += [f"Of {', '.join(f'`{name}`' for name in sorted(some))} these are read by", ""]
        for choice, names in read_by.items():
            lines.append(f"- `{choice}`: {', '.join(f'`{name}`' for name in names) or 'none'}")
        lines.append("")
    return lines


def _choices(kinds: Iterable[tuple[str, type[msgspec.Struct]]]) -> list[str]:
    """Names with the options of each."""
    lines = []
    for name, kind in kinds:
        lines += [f"#### {name}", "", inspect.getdoc(kind) or "", ""]
        lines += ["| option | takes | default |", "|---|---|---|", *_rows(kind), ""]
    return lines


def _rows(kind: type[msgspec.Struct]) -> list[str]:
    (_,), parts = msgspec.json.schema_components([kind])
    properties = parts[kind.__name__]["properties"]
    required = parts[kind.__name__].get("required", ())
    rows = []
    for name, told in properties.items():
        default = "needed" if name in required else _default(told.get("default"))
        rows.append(f"| `{name}` | {_cell(_takes(told))} | {default} |")
    return rows


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict | list) and not value:
        return "empty"
    return "its own" if isinstance(value, dict) else f"`{msgspec.json.encode(value).decode()}`"


def _takes(told: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in told:
        return " or ".join(_takes(one) for one in told["anyOf"] if one.get("type") != "null")
    if "$ref" in told:
        return "an object, see below"
    if "enum" in told:
        return ", ".join(f"`{value}`" for value in told["enum"])
    match told.get("type"):
        case "array":
            return f"a list: {_takes(told.get('items') or {})}"
        case "object":
            values = told.get("additionalProperties")
            each = f", each value {_takes(values)}" if isinstance(values, dict) else ""
            return f"an object{each}"
        case "boolean":
            return "`true`, `false`"
        case "string":
            return "a text"
        case "integer" | "number" as kind:
            words = {
                "minimum": "from", "exclusiveMinimum": "above", "maximum": "to",
                "exclusiveMaximum": "below", "multipleOf": "a multiple of",
            }  # fmt: skip
            bounds = [f"{word} {told[key]}" for key, word in words.items() if key in told]
            return " ".join(["a whole number" if kind == "integer" else "a number", *bounds])
        case _:
            return "anything"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES = {
    "settings.md": settings,
    "routes.md": routes,
    "cli.md": command_line,
    "errors.md": error_codes,
    "python.md": python,
    "tasks.md": task_pages,
    "training.md": training,
}


def main(folder: Path) -> None:
    """Write all pages."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in PAGES.items():
        (folder / name).write_text(NOTE + write(), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "reference")
