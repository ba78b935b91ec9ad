"""What the task `text-ranking` is."""

from lmaas.tasks.spec import Checkpoint, Spec

SPEC = Spec(
    name="text-ranking",
    takes="a query and documents",
    gives="how relevant each document is, from 0 to 1",
    fields=("query", "document"),
    shared="query",
    pipelines=("text-ranking",),
    metrics={"ndcg": "normalised discounted cumulative gain of a query's documents"},
    primary="ndcg",
    checkpoint=Checkpoint(
        endings=("ForSequenceClassification",),
        certain=True,
        builder="lmaas.frameworks.encoder:build",
        loads="AutoModelForSequenceClassification",
        gives="score",
        pairs=True,
    ),
)
