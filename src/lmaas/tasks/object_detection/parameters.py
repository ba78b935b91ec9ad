"""What a call to a detector sets."""

from typing import Any, Final

import msgspec

from lmaas.errors import InvalidInput
from lmaas.tasks.object_detection.spec import Parameters
from lmaas.types import Signature

DEFAULTS: Final = Parameters()


def read_parameters(given: dict[str, Any], signature: Signature) -> Parameters:
    """What a call sets. Raises InvalidInput for what the model cannot honour."""
    if not given:
        return DEFAULTS
    try:
        asked = msgspec.convert(given, Parameters)
    except msgspec.ValidationError as error:
        known = ", ".join(Parameters.__struct_fields__)
        raise InvalidInput(
            f"Bad parameters: {error}.", hint=f"Known parameters: {known}.", param="parameters"
        ) from None
    spec = signature.detection
    assert spec is not None
    if asked.overlap is not None and spec.nms == 1:
        raise InvalidInput(
            f"overlap cannot be honoured: the head {spec.head} of this model leaves no boxes out "
            "because they overlap.",
            param="overlap",
        )
    return asked
