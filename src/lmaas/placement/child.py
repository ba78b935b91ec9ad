"""The inside of the sandbox: shut yourself in, then do the work.

`python -m lmaas.placement.child MODULE SCRATCH` runs `MODULE.run(request)`.
"""

import errno
import importlib
import os
import sys
from pathlib import Path

import msgspec

from lmaas import lean_imports
from lmaas.errors import FULL, LMaaSError, PayloadTooLarge, StorageFull
from lmaas.placement.base import ChildBounds
from lmaas.placement.isolation import Confinement, confine
from lmaas.placement.sandbox import ChildError


def main(module: str, scratch: Path) -> None:
    """Run the work under its bounds; leave `reply.json` or `error.json`."""
    bounds = msgspec.json.decode((scratch / "bounds.json").read_bytes(), type=ChildBounds)
    try:
        confine(
            Confinement(
                reads=bounds.reads,
                writes=(str(scratch),),
                address_bytes=bounds.memory_bytes,
                file_bytes=bounds.disk_bytes,
                cpu_s=max(1, int(bounds.timeout_s * (os.cpu_count() or 1))),
                memory_fds=False,
                dies_with_parent=True,
                required=bounds.required,
            )
        )
        reply = importlib.import_module(module).run((scratch / "request.json").read_bytes())
    except LMaaSError as error:
        told = ChildError(
            code=error.code, message=error.message, hint=error.hint, param=error.param
        )
        (scratch / "error.json").write_bytes(msgspec.json.encode(told))
    except OSError as error:
        if error.errno not in FULL:
            raise
        bounded = error.errno == errno.EFBIG
        told = ChildError(
            code=PayloadTooLarge.code if bounded else StorageFull.code,
            message=f"{bounds.work} wrote more than {bounds.disk_bytes} bytes."
            if bounded
            else f"{bounds.work} found no space left: {error.strerror}.",
            hint="Raise compile_disk_bytes."
            if bounded
            else "Free space on the device of LMAAS_HOME.",
        )
        (scratch / "error.json").write_bytes(msgspec.json.encode(told))
    except MemoryError:
        told = ChildError(
            code="does_not_fit",
            message=f"{bounds.work} needs more than {bounds.memory_bytes >> 20} MiB.",
            hint="Raise compile_memory_bytes.",
        )
        (scratch / "error.json").write_bytes(msgspec.json.encode(told))
    else:
        (scratch / "reply.json").write_bytes(reply)


if __name__ == "__main__":
    lean_imports.install()
    main(sys.argv[1], Path(sys.argv[2]))
