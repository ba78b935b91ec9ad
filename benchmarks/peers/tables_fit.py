"""Fits one peer on a set's train.csv and tells its test.csv: `tables_fit.py PEER FOLDER OUT`.

Each is what its documentation shows first. The seconds, and those of the processor, are of `fit`
alone: no import, no reading, nothing made ready to be served.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

THREADS = int(os.environ["OMP_NUM_THREADS"])
FLAML_S = 15
CLASSES = 20
MOST_CATEGORIES = 255


def read(folder: Path) -> tuple[pd.DataFrame, pd.Series, pd.DataFrame]:
    """Training rows, their targets, and test rows; texts are categories."""
    target = (folder / "target").read_text()
    train, test = (pd.read_csv(folder / f"{split}.csv") for split in ("train", "test"))
    rows, held = train.drop(columns=target), test.drop(columns=target)
    for column in rows.columns:
        if not pd.api.types.is_numeric_dtype(rows[column]):
            rows[column] = rows[column].astype("category")
            held[column] = pd.Categorical(held[column], categories=rows[column].cat.categories)
    return rows, train[target], held


def encoded(model: Any) -> Any:
    """A pipeline that makes numbers of everything."""
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    names = OneHotEncoder(handle_unknown="ignore")
    kinds = make_column_selector(dtype_include="category")
    return make_pipeline(make_column_transformer((names, kinds), remainder=numbers), model)


def peer(name: str, rows: pd.DataFrame, classifies: bool) -> Any:
    """An estimator that is not fitted."""
    from sklearn import ensemble, linear_model
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    kind = "Classifier" if classifies else "Regressor"
    if name == "LightGBM":
        import lightgbm

        return getattr(lightgbm, f"LGBM{kind}")(n_jobs=THREADS, verbose=-1)
    if name == "FLAML":
        from flaml import AutoML

        task = "classification" if classifies else "regression"
        return AutoML(time_budget=FLAML_S, task=task, n_jobs=THREADS, seed=0, verbose=0)
    if name == "forest":
        make = getattr(ensemble, f"RandomForest{kind}")
        return encoded(make(n_jobs=THREADS, random_state=0))
    if name == "linear":
        if classifies:
            return encoded(linear_model.LogisticRegression(max_iter=1000))
        return encoded(linear_model.RidgeCV())
    make = getattr(ensemble, f"HistGradientBoosting{kind}")
    many = [
        column
        for column in rows.columns
        if isinstance(rows[column].dtype, pd.CategoricalDtype)
        and len(rows[column].cat.categories) > MOST_CATEGORIES
    ]
    model = make(categorical_features="from_dtype", random_state=0)
    if not many:
        return model
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    shaped = make_column_transformer(
        (codes, many), remainder="passthrough", verbose_feature_names_out=False
    )
    return make_pipeline(shaped.set_output(transform="pandas"), model)


def main(name: str, folder: Path, out: Path) -> None:
    """Fit, tell, and write seconds and answers."""
    warnings.filterwarnings("ignore")
    rows, targets, held = read(folder)
    numbers = pd.api.types.is_numeric_dtype(targets)
    classifies = not numbers or targets.nunique() <= CLASSES
    model = peer(name, rows, classifies)
    began, used = time.perf_counter(), time.process_time()
    model.fit(rows, targets)
    seconds, used = time.perf_counter() - began, time.process_time() - used
    if classifies:
        labels = [str(label) for label in model.classes_]
        told: Any = np.asarray(model.predict_proba(held)).tolist()
    else:
        labels, told = [], np.asarray(model.predict(held), float).tolist()
    reply = {"seconds": seconds, "cpu_s": used, "labels": labels, "told": told}
    out.write_text(json.dumps(reply))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
