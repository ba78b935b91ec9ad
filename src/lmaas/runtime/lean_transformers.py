"""transformers without what it imports for functions that nothing here calls.

Its text generation imports scikit-learn and scipy, where they are installed, to tune a threshold of
assisted generation. That is a tenth of what importing a language model costs.
"""

import sys
from typing import Final

UNUSED: Final = "sklearn"


def import_generation() -> None:
    """Import transformers' generation as if scikit-learn were not installed; it can be used later.

    For processes of our own only: another thread that imports scikit-learn meanwhile would not find
    it. Raises ImportError where transformers is not installed.
    """
    if UNUSED in sys.modules:
        return
    sys.modules[UNUSED] = None  # type: ignore[assignment] # as Python's import takes it: not there
    try:
        import transformers.generation.utils  # noqa: F401
    finally:
        del sys.modules[UNUSED]
