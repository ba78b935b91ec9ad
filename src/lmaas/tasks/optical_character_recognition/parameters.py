"""What a call to a reader sets."""

from typing import Any

import msgspec

from lmaas.errors import InvalidInput
from lmaas.tasks.optical_character_recognition.spec import Parameters
from lmaas.types import Signature


def read_parameters(given: dict[str, Any]) -> Parameters:
    """What a call sets. Raises InvalidInput for what is unknown or bad."""
    try:
        return msgspec.convert(given, Parameters)
    except msgspec.ValidationError as error:
        known = ", ".join(Parameters.__struct_fields__)
        raise InvalidInput(
            f"Bad parameters: {error}.", hint=f"Known parameters: {known}.", param="parameters"
        ) from None


def pattern_of(parameters: Parameters, signature: Signature) -> str:
    """The pattern of a call: its own, or else the reader's."""
    assert signature.reading is not None
    return signature.reading.pattern if parameters.pattern is None else parameters.pattern
