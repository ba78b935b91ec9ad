"""Whether a model can do what a request asks of its reasoning."""

from lmaas.errors import InvalidInput
from lmaas.types import ModelVersion


def check_reasoning(version: ModelVersion, param: str) -> None:
    """Refuse a request that asks a model to reason that cannot. Raises InvalidInput."""
    language = version.manifest.signature.language
    if language is not None and not language.reasoning:
        raise InvalidInput(
            f"{version.ref} does not reason.", hint=f"Leave out {param}.", param=param
        )
