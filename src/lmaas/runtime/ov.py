"""OpenVINO without its usage reports.

The package `openvino` reports conversions to its vendor unless its telemetry package is absent.
LMaaS sends nothing to anybody, so it is made absent for this process before the first import.
"""

import sys
from functools import cache
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


@cache
def core() -> Any:
    """The one `openvino.Core` of this process.

    Each one's CPU plugin gives its thread a stack for signal handlers and takes it back when it
    ends. Where two end in another order than they began, a stack is left that is freed already, and
    the next signal, such as Ctrl-C, ends the process.
    """
    return load().Core()
