"""What is measured on held-out samples, by task: the names that the problems' meters give."""

from typing import Final

LOSS: Final = {"loss": "what training makes smaller, a mean over the samples or learned tokens"}
CLASSES: Final = LOSS | {
    "accuracy": "share of the samples whose likeliest class is the right one",
    "macro_f1": "mean of the classes' F1",
}
METRICS: Final[dict[str, dict[str, str]]] = {
    "image-classification": CLASSES,
    "tabular": CLASSES
    | {
        "log_loss": "mean negative logarithm of the right class's probability",
        "auc": "area under the ROC curve, of several classes the mean of each against the others",
        "rmse": "root of the mean squared error, in the target's unit (regression)",
        "mae": "mean absolute error, in the target's unit (regression)",
        "r2": "share of the target's variance that is told (regression)",
    },
    "text-classification": CLASSES,
    "text-generation": LOSS
    | {
        "perplexity": "exponential of the mean loss of a learned token",
        "token_accuracy": "share of the learned tokens that greedy decoding would have written",
        "reward_accuracy": "share of the pairs whose preferred answer gained more (dpo)",
        "reward_margin": "how much more it gained, in units of the reward (dpo)",
    },
}
