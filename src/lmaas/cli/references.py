"""How commands take a model: `name`, `name:3` or `name@alias`, where each makes sense."""

from typing import Any, Final, Literal

import click

Form = Literal["name", "version", "alias"]
FORMS: Final[tuple[Form, ...]] = ("name", "version", "alias")
EXAMPLES: Final[dict[Form, str]] = {"name": "NAME", "version": "NAME:3", "alias": "NAME@ALIAS"}


class ModelReference(click.ParamType[str]):
    """A reference to a model. Whether there is such a model is the service's to say.

    `why` says, for forms that a command does not take, what it is about.
    """

    name = "model"

    def __init__(self, forms: tuple[Form, ...] = FORMS, why: str = "") -> None:
        self.forms = forms
        self._why = why

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """`value` itself. Fails for a form that is not taken."""
        text = str(value)
        form: Form = "version" if ":" in text else "alias" if "@" in text else "name"
        if form not in self.forms:
            taken = " or ".join(EXAMPLES[each] for each in self.forms)
            self.fail(f"{text!r} is one version. {self._why} Write {taken}.", param, ctx)
        return text


MODEL: Final = ModelReference()
