"""How a checkpoint's texts are laid out for its encoder, told by its tokenizer and its configs."""

import re
from collections.abc import Mapping
from typing import Any, Final

from lmaas.tasks.text_layout import SOURCE_LANGUAGE, Prompt, TextLayout
from lmaas.types import SequenceSpec

PROBE: Final = "a"
TRANSLATION: Final = re.compile(r"translation_([a-z]{2,3})_to_([a-z]{2,3})")
MOST_PROMPTS: Final = 1000


def layout_of(
    tokenizer: Any, config: Mapping[str, Any], spec: SequenceSpec, beside: Mapping[str, Any]
) -> TextLayout:
    """What stands around a source, and where an answer's language goes.

    `beside` is tokenizer_config.json.
    """
    language: int | None = None
    if spec.languages:
        language = _set_language(tokenizer, spec.languages)
    whole = tokenizer(PROBE)["input_ids"]
    bare = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    first = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)

    def told(ids: list[int]) -> tuple[int, ...]:
        return tuple(SOURCE_LANGUAGE if index == language else index for index in ids)

    target = "none"
    if spec.languages:
        starts = set(spec.start) & set(spec.languages.values())
        target = "is-start" if starts else "after-start"
    pair = beside.get("source_lang"), beside.get("target_lang")
    known = spec.languages or not all(isinstance(each, str) and each for each in pair)
    return TextLayout(
        before=told(whole[:first]),
        after=told(whole[first + len(bare) :]),
        target=target,  # type: ignore[arg-type]
        pair=None if known else (str(pair[0]), str(pair[1])),
        prompts=_prompts(config),
    )


def _set_language(tokenizer: Any, languages: Mapping[str, int]) -> int | None:
    """Have the tokenizer read texts of the model's first language; its token."""
    code, token = next(iter(languages.items()))
    try:
        tokenizer.src_lang = code
    except (AttributeError, KeyError, ValueError):
        return None
    return token


def _prompts(config: Mapping[str, Any]) -> dict[str, Prompt]:
    found: dict[str, Prompt] = {}
    told = config.get("task_specific_params")
    for name, each in (told if isinstance(told, dict) else {}).items():
        prefix = each.get("prefix") if isinstance(each, dict) else None
        if isinstance(prefix, str) and prefix and len(found) < MOST_PROMPTS:
            match = TRANSLATION.fullmatch(str(name))
            source, target = match.groups() if match else (None, None)
            found[str(name)] = Prompt(prefix=prefix, source=source, target=target)
    return found
