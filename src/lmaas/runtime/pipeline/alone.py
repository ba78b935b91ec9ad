"""A conversation with the parts of a pipeline, run to its end in this thread, nothing beside it."""

from collections.abc import Callable, Mapping

import numpy as np

from lmaas.tasks.base import Batch, Tensors
from lmaas.tasks.pipelines import Conversation, Run
from lmaas.types import Answer

Infer = Callable[[Tensors], Tensors]


def answer(conversation: Conversation, parts: Mapping[str, Infer]) -> Answer:
    """The answer of a request; `parts` are what runs the arrays of each role.

    Raises what the conversation raises.
    """
    try:
        asked = next(conversation)
        while True:
            asked = conversation.send(outputs_of(asked, parts))
    except StopIteration as end:
        given: Answer = end.value
        return given


def outputs_of(asked: Run, parts: Mapping[str, Infer]) -> Tensors:
    """What the part that is asked answers."""
    infer = parts[asked.part]
    batches: tuple[Batch, ...] = asked.batch.parts or (asked.batch,)
    ran = [infer(batch.arrays) for batch in batches]
    if len(ran) == 1:
        return ran[0]
    return {name: np.concatenate([outputs[name] for outputs in ran]) for name in ran[0]}
