"""What a call for faces may set, read."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from lmaas.errors import InvalidInput
from lmaas.tasks.face_recognition.spec import SPEC, Parameters

MOST_IMAGES: Final = SPEC.rows_per_call


def read_parameters(given: Mapping[str, Any]) -> Parameters:
    """A call's parameters. Raises InvalidInput naming the one that does not do."""
    for name in given:
        if name not in Parameters.__struct_fields__:
            raise InvalidInput(
                f"Parameter {name!r} is not supported by this task.",
                hint=f"Known are {', '.join(Parameters.__struct_fields__)}.",
                param=name,
            )
    try:
        return msgspec.convert(dict(given), Parameters)
    except msgspec.ValidationError as error:
        param = next((name for name in given if f"$.{name}" in str(error)), "parameters")
        raise InvalidInput(f"Bad parameters: {error}.", param=param) from None
