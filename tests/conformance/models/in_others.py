"""Models of the sweep in ONNX, scikit-learn and boosted trees."""

from typing import Any

import numpy as np

from conformance.models.case import Case, floats, rows

X = floats(300, 6)
Y = (X[:, 0] + X[:, 1] > 0).astype(int)
TEXTS = np.array(["good movie", "bad movie", "great film", "awful film"], object)


def linear() -> Any:
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit(X, X[:, 1])


def logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit(X, np.where(Y, "yes", "no"))


def forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(X, Y)


def of_texts() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, [1, 0, 1, 0])


def boosted(kind: str) -> Any:
    import xgboost

    if kind == "classes":
        return xgboost.XGBClassifier(n_estimators=8, max_depth=3).fit(X, Y)
    if kind == "three":
        return xgboost.XGBClassifier(n_estimators=5).fit(X, np.arange(300) % 3)
    if kind == "poisson":
        return xgboost.XGBRegressor(n_estimators=3, objective="count:poisson").fit(X, Y)
    return xgboost.XGBRegressor(n_estimators=8).fit(X, X[:, 1])


def light() -> Any:
    import lightgbm

    return lightgbm.LGBMClassifier(n_estimators=8, verbose=-1).fit(X, Y)


FRESH = rows(6)
FEW = X[:16]
CASES = [
    Case("sklearn: linear regression", linear, (FEW,), FRESH),
    Case("sklearn: classes that are texts", logistic, (FEW,), FRESH, small=True),
    Case("sklearn: a pipeline with a forest", forest, (FEW,), FRESH),
    Case("sklearn: texts", of_texts, (TEXTS,),
         ((np.array(["a good film", "unknown words"], object),),)),
    Case("xgboost: two classes", lambda: boosted("classes"), (FEW,), FRESH, small=True),
    Case("xgboost: three classes", lambda: boosted("three"), (FEW,), FRESH),
    Case("xgboost: regression", lambda: boosted("numbers"), (FEW,), FRESH),
    Case("xgboost: poisson", lambda: boosted("poisson"), (FEW,), refused="count:poisson"),
    Case("lightgbm: two classes", light, (FEW,), FRESH),
]  # fmt: skip
