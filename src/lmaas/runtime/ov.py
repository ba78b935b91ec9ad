"""OpenVINO without its usage reports.

The package `openvino` reports conversions to its vendor unless its telemetry package is absent.
LMaaS sends nothing to anybody, so it is made absent for this process before the first import.
"""

import sys
from typing import Any


def load() -> Any:
    """The module `openvino`, unable to send anything."""
    telemetry = sys.modules.get("openvino_telemetry")
    if telemetry is None:
        # None in sys.modules is Python's own mark of a package that must not be imported.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    else:
        telemetry.Telemetry.send_event = lambda *_, **__: None
    import openvino

    return openvino
