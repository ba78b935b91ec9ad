"""What the task `tensor` is."""

from lmaas.tasks.spec import Spec

SPEC = Spec(
    name="tensor",
    takes="named arrays",
    gives="named arrays",
    metrics={
        "mae": "mean absolute error of the first output",
        "rmse": "root of the mean squared error of the first output",
    },
    primary="rmse",
)
