"""What the task `image-text-to-text` is."""

from lmaas.tasks.spec import Checkpoint, Spec

SPEC = Spec(
    name="image-text-to-text",
    takes="a conversation with images, or a prompt",
    gives="text, tool calls, or JSON that fits a schema, as it is written",
    fields=("prompt",),
    rows_per_call=1,
    pipelines=("image-text-to-text", "visual-question-answering"),
    generates=True,
    metrics={"perplexity": "exponential of the mean loss of a token"},
    primary="perplexity",
    checkpoint=Checkpoint(
        endings=("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration"),
        builder="lmaas.frameworks.vision_language:build",
    ),
)
