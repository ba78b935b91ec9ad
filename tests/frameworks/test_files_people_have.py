"""Every kind of model file is taken, or refused with two lines that convert it: these are run."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmaas
from lmaas.errors import LMaaSError, ModelRefused
from lmaas.frameworks import refuse

X = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def network() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 2))


def keras_network() -> Any:
    import keras

    return keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(2)])


def estimator() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit(X, Y)


# Taken as they are


def torchscript(path: Path) -> None:
    import torch

    torch.jit.trace(network().eval(), torch.randn(4, 6)).save(str(path))


def lite(path: Path) -> None:
    import tensorflow as tf

    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(keras_network()).convert())


def frozen(path: Path) -> None:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    model = keras_network()
    graph = tf.function(lambda a: model(a)).get_concrete_function(
        tf.TensorSpec([None, 6], tf.float32)
    )
    plain = convert_variables_to_constants_v2(graph).graph
    tf.io.write_graph(plain, str(path.parent), path.name, as_text=False)


def xgboost(path: Path) -> None:
    import xgboost

    booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(X, Y), 3)
    booster.save_model(path)


def lightgbm(path: Path) -> None:
    import lightgbm

    options = {"objective": "binary", "verbose": -1, "num_threads": 1}
    lightgbm.train(options, lightgbm.Dataset(X, Y), 3).save_model(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "make", "framework"),
    [
        ("m.pt", torchscript, "pytorch"),
        ("m.tflite", lite, "tflite"),
        ("m.pb", frozen, "tensorflow"),
        ("m.json", xgboost, "xgboost"),
        ("m.ubj", xgboost, "xgboost"),
        ("m.txt", lightgbm, "lightgbm"),
    ],
)
def test_files_that_are_taken(
    tmp_path: Path, name: str, make: Callable[[Path], None], framework: str
) -> None:
    path = tmp_path / name
    make(path)
    sample = X[:4] if framework == "pytorch" else None
    version = lmaas.publish(path, name="m", task="tensor", sample=sample, home=tmp_path / "home")
    assert version.manifest.framework == framework
    assert version.manifest.lineage.origin == "push"


# Refused, with two lines


def pickled(path: Path) -> None:
    import pickle

    path.write_bytes(pickle.dumps(estimator()))


def dumped(path: Path) -> None:
    import joblib

    joblib.dump(estimator(), path)


def state(path: Path) -> None:
    import torch

    torch.save(network().state_dict(), path)


def weights(path: Path) -> None:
    from safetensors.torch import save_model

    save_model(network(), str(path))


def exported(path: Path) -> None:
    import torch

    free = {"input": {0: torch.export.Dim.AUTO}}
    program = torch.export.export(network(), (torch.randn(4, 6),), dynamic_shapes=free)
    torch.export.save(program, path)


def old_keras(path: Path) -> None:
    keras_network().save(path)


def code(path: Path) -> None:
    path.write_text("import torch\n\nmodel = torch.nn.Linear(6, 2)\n")


REFUSED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "joblib": ("m.joblib", dumped),
    "pickle": ("m.pkl", pickled),
    "weights": ("m.pth", state),
    "safetensors": ("w.safetensors", weights),
    "exported": ("m.pt2", exported),
    "hdf5": ("m.h5", old_keras),
    "python": ("my_network.py", code),
}


def test_every_kind_is_tried() -> None:
    assert REFUSED.keys() == refuse.LINES.keys()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_the_two_lines_convert(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, make = REFUSED[kind]
    path = tmp_path / name
    make(path)
    with pytest.raises(ModelRefused) as caught:
        lmaas.publish(path, name="m", task="tensor", sample=X[:4], home=tmp_path / "home")
    told = str(caught.value.hint).partition(":\n")[2]
    assert len(told.splitlines()) == 2
    monkeypatch.setenv("LMAAS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [os.fspath(tmp_path), *sys.path])
    import pickle

    import joblib
    import keras
    import safetensors.torch
    import torch

    names = {
        "lmaas": lmaas, "x": X[:4], "model": network(), "pickle": pickle, "joblib": joblib,
        "keras": keras, "safetensors": safetensors, "torch": torch,
    }  # fmt: skip
    exec(told.replace("NAME", "m"), names)
    if kind == "hdf5":
        lmaas.publish(tmp_path / "model.keras", name="m", task="tensor")
    from lmaas.config import load_settings
    from lmaas.service import Service

    service = Service(load_settings({}))
    try:
        assert [version.ref for version in service.catalog.latest("default")] == ["m:1"]
    finally:
        service.close()


def test_what_is_no_model_object_says_what_is(tmp_path: Path) -> None:
    for thing in (object(), lambda x: x, "no such file"):
        with pytest.raises(LMaaSError) as caught:
            lmaas.publish(thing, name="m", task="tensor", sample=X, home=tmp_path)
        assert caught.value.hint or "does not exist" in str(caught.value)
