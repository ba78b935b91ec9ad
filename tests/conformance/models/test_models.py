"""Some models of the sweep, in this process: right on inputs that are unlike the sample."""

import importlib
from pathlib import Path

import pytest

from conformance.models import asking
from conformance.models.case import Case
from lmaas import frameworks
from lmaas.codecs import tensor
from lmaas.codecs.limits import Limits
from lmaas.frameworks import package
from lmaas.runtime.engine import ENGINES, make_engine

KINDS = ("in_pytorch", "in_tensorflow", "in_keras", "in_others")
SMALL = [
    case
    for kind in KINDS
    for case in importlib.import_module(f"conformance.models.{kind}").CASES
    if case.small
]


@pytest.mark.parametrize("case", SMALL, ids=[case.name for case in SMALL])
def test_what_is_served_is_right(case: Case, tmp_path: Path) -> None:
    model = case.make()
    sample = case.sample if len(case.sample) > 1 else case.sample[0]
    manifest = package.build(
        model,
        name="m",
        task="tensor",
        sample=sample,
        folder=tmp_path,
        framework=frameworks.get(frameworks.of_object(model)),
        **case.options,
    )
    signature = manifest.signature
    engine = make_engine(manifest.engine)
    engine.load(tmp_path / ENGINES[manifest.engine].folder, signature, "f32", 0)
    for given in (case.sample, *case.fresh):
        want = asking.answers(model, given)
        arrays = {
            spec.name: tensor.read_json(array.tolist(), spec, Limits())
            for spec, array in zip(signature.inputs, asking.arrays(given), strict=True)
        }
        for array in arrays.values():
            array.flags.writeable = False
        tensor.check_arrays(arrays, signature)
        assert want is not None
        assert asking.difference(case.name, want, list(engine.infer(arrays).values())) is None
    engine.close()
