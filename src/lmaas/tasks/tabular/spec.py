"""What the task `tabular` is."""

from lmaas.tasks.architectures import Mlp
from lmaas.tasks.spec import CLASSES, Several, Spec, Training
from lmaas.tasks.tabular.options import STACK, TREES, BoostedTrees, Stack, TableDataOptions

SPEC = Spec(
    name="tabular",
    takes="a row of named values, a list of rows, or a table of columns",
    gives="labels with scores, or a number, for each row",
    rows_per_call=512,
    pipelines=("tabular-classification", "tabular-regression"),
    pipeline_without_labels="tabular-regression",
    metrics=CLASSES
    | {
        "log_loss": "mean negative logarithm of the right class's probability",
        "auc": "area under the ROC curve, of several classes the mean of each against the others",
        "rmse": "root of the mean squared error, in the target's unit (regression)",
        "mae": "mean absolute error, in the target's unit (regression)",
        "r2": "share of the target's variance that the model explains (regression)",
    },
    primary="accuracy",
    training=Training(
        does="tells a class or a number from a row of named values",
        options=TableDataOptions,
        columns=("target",),
        architectures={STACK: Stack, "mlp": Mlp, TREES: BoostedTrees},
        left_open=("mlp", TREES),
        only_in={STACK: "stack", TREES: "lightgbm"},
        several=Several(architecture=STACK, framework="stack", held_out=False),
    ),
)
