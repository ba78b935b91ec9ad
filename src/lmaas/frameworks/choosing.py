"""Which form of a model is served: the first, in order of speed, that gives its own answers."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmaas.errors import FULL, InvalidInput, LMaaSError, MissingExtra, ParityFailed
from lmaas.frameworks.base import Facts, Form, Framework
from lmaas.frameworks.probing import Probed
from lmaas.frameworks.reasons import reason, together
from lmaas.runtime import cases, ov, parity
from lmaas.runtime.engine import ENGINES
from lmaas.tasks import Tensors
from lmaas.types import EngineName, Signature, TensorSpec

ROOM_BYTES: Final = 1 << 16
"""What a graph takes beside its weights, at least."""


class Chosen(NamedTuple):
    """The engine, why it and not a faster one, and the signature."""

    engine: EngineName
    reason: str
    signature: Signature


def choose(
    framework: Framework,
    model: Any,
    probed: Probed,
    frozen: Callable[[], Probed] | None,
    signed: Callable[[Probed], Signature],
    task: str,
    folder: Path,
) -> Chosen:
    """Write the files of the first form that passes parity, and the cases, into `folder`.

    With free axes first; where no form keeps them, at the sample's own shapes, which `frozen` asks
    the source about, unless it is None. Raises InvalidInput where nothing can be made, ParityFailed
    where what was made answers differently.
    """
    facts = _facts(framework, model, probed)
    failures: list[str] = []
    tries: list[Callable[[], Probed]] = [lambda: probed]
    if probed.axes.free and frozen is not None:
        tries.append(frozen)
    measured = False
    last: LMaaSError | None = None
    refused: list[LMaaSError] = []
    for attempted in tries:
        attempt = attempted()
        signature = signed(attempt)
        about = cases.About(
            random=tuple(sorted(attempt.random)),
            computes_in=facts.computes_in,
            decided_by=dict(facts.decided_by),
            notes=(*attempt.notes, *facts.notes),
        )
        cases.write(folder / cases.SAMPLE_FILE, attempt.cases, about)
        try:
            for form in _forms(framework, model, attempt, signature):
                why = _try(form, folder, signature, task, attempt, refused)
                if why is None:
                    return Chosen(form.engine, together(failures), signature)
                measured = measured or why[1]
                failures.append(f"{form.engine}, {form.how}: {why[0]}")
                shutil.rmtree(folder / ENGINES[form.engine].folder, ignore_errors=True)
        except MissingExtra:
            raise
        except InvalidInput as error:
            last = error
    if last is not None:
        raise last
    if refused and len(refused) == len(failures):
        raise refused[0]
    told = together(failures) or "no form of it is known"
    if measured:
        raise ParityFailed(
            f"No form of the model gives its own answers ({told}). Nothing was published.",
            hint="Make its outputs depend on its inputs alone, in inference mode.",
        )
    raise InvalidInput(
        f"The model cannot be compiled ({told}).",
        hint="Operations that only Python can run do not compile.",
    )


def _facts(framework: Framework, model: Any, probed: Probed) -> Facts:
    own = probed.cases[0]
    assert own.outputs is not None
    kinds = {array.dtype.name for array in own.outputs.values() if array.dtype.kind == "f"}
    facts = framework.facts(model, own.inputs)
    if "float64" in kinds:
        return facts._replace(computes_in="f64")
    return facts._replace(computes_in="f16") if "float16" in kinds else facts


def _forms(framework: Framework, model: Any, probed: Probed, signature: Signature) -> Any:
    own = probed.cases[0]
    assert own.outputs is not None
    texts = any(spec.dtype == "string" for spec in (*signature.inputs, *signature.outputs))
    for form in framework.forms(model, own.inputs, list(own.outputs), probed.axes):
        if not (texts and form.engine == "openvino"):
            yield form


def _try(
    form: Form,
    folder: Path,
    signature: Signature,
    task: str,
    probed: Probed,
    refused: list[LMaaSError],
) -> tuple[str, bool] | None:
    """Make one form and measure it; why it will not do, and whether it ran at all.

    What a form itself refuses is added to `refused`.
    """
    target = folder / ENGINES[form.engine].folder
    try:
        made = form.make(target)
        if form.engine == "openvino":
            _name_ports(made, signature, probed)
            _make_room(made, target)
            ov.load().save_model(made, target / "model.xml", compress_to_fp16=False)
        report = parity.measure(folder, signature, task, form.engine, bf16=False)
    except (MissingExtra, MemoryError):
        raise
    except OSError as error:
        if error.errno in FULL:
            raise
        return reason(error, form.places), False
    except InvalidInput as error:
        refused.append(error)
        return reason(error, form.places), False
    except Exception as error:  # noqa: BLE001 - converters raise whatever they like
        return reason(error, form.places), False
    return None if report.passed("f32") else (parity.tell(report), True)


def _make_room(made: Any, folder: Path) -> None:
    """Raise OSError where the disk has no room for a model: OpenVINO would end the process."""
    weights = sum(
        node.get_byte_size() for node in made.get_ops() if node.get_type_name() == "Constant"
    )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, weights + ROOM_BYTES)


def _name_ports(model: Any, signature: Signature, probed: Probed) -> None:
    """Give the converted model's tensors our names and shapes. Raises InvalidInput."""
    own = probed.cases[0]
    assert own.outputs is not None
    inputs, outputs = own.inputs, own.outputs
    if len(model.inputs) != len(inputs) or len(model.outputs) != len(outputs):
        raise InvalidInput(
            f"The compiled model has {len(model.inputs)} inputs and {len(model.outputs)} outputs; "
            f"the source has {len(inputs)} and {len(outputs)}. An input that does not reach any "
            "output is dropped: leave it out of the sample."
        )
    ordered_inputs, ordered_outputs = _order(model.inputs, inputs), _order(model.outputs, outputs)
    for ports, names in ((ordered_inputs, inputs), (ordered_outputs, outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    specs: tuple[TensorSpec, ...] = signature.inputs
    model.reshape(
        {port: list(spec.shape) for port, spec in zip(ordered_inputs, specs, strict=True)}
    )


def _order(ports: list[Any], arrays: Tensors) -> list[Any]:
    """The ports in the order of `arrays`: by name where the converter kept all names."""
    named = {name: port for port in ports for name in port.get_names()}
    if all(name in named for name in arrays):
        return [named[name] for name in arrays]
    return list(ports)
