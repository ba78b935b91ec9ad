"""A medical table: is a tumour malignant, from thirty measurements of its cells.

    python recipes/medical_table.py [--quick] [--home DIR]

The Breast Cancer Wisconsin data that scikit-learn brings along (569 patients). Boosted trees and a
neural net learn it, and the server's answers for held-out patients are checked (`tables.py`). Exit
code 0 only when both are far better than calling all benign, and answer as they were trained. Needs
`lmaas[train]`.
"""

import sys

from sklearn.datasets import load_breast_cancer

from tables import Table, main


def draw(size: int) -> Table:
    """The first `size` patients."""
    data = load_breast_cancer()
    rows = [
        {
            **dict(zip(data.feature_names.tolist(), cells.tolist(), strict=True)),
            "diagnosis": str(data.target_names[label]),
        }
        for cells, label in zip(data.data[:size], data.target[:size], strict=True)
    ]
    return Table("medical", rows, "diagnosis", "accuracy", 0.2)


if __name__ == "__main__":
    sys.exit(main(__doc__, draw, (300, 569)))
