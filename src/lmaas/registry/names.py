"""What a model, a version and an alias may be called, and how one is referred to."""

import re
from typing import NamedTuple

from lmaas.errors import InvalidInput

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,94}[a-z0-9])?")
RULE = (
    "Use 1 to 96 of the characters a-z, 0-9, '.', '_' and '-', starting and ending with a letter "
    "or digit, without '..'."
)


class Ref(NamedTuple):
    """`name`, `name:3` or `name@production`, taken apart."""

    name: str
    version: int | None = None
    alias: str | None = None


def check_name(name: str, *, what: str = "model name") -> str:
    """`name` if it may be used. Raises InvalidInput with the rule.

    ASCII only, so that no two names look alike; no separators, so that none is a path.
    """
    if not NAME.fullmatch(name) or ".." in name:
        raise InvalidInput(f"{show(name)} cannot be a {what}.", hint=RULE, param="name")
    return name


def parse_ref(ref: str) -> Ref:
    """Take a reference apart. Raises InvalidInput for anything that is not one."""
    if ":" in ref:
        name, _, version = ref.partition(":")
        if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
            raise InvalidInput(
                f"{show(ref)} does not name a version.",
                hint="Write name:3 for version 3.",
                param="model",
            )
        return Ref(check_name(name), version=int(version))
    if "@" in ref:
        name, _, alias = ref.partition("@")
        return Ref(check_name(name), alias=check_name(alias, what="alias"))
    return Ref(check_name(ref))


def show(text: str) -> str:
    """`text` for an error message: escaped to ASCII, and cut when it is long."""
    return ascii(text if len(text) <= 100 else text[:97] + "...")
