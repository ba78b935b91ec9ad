"""What the task `text-generation` is."""

from lmaas.tasks.spec import LOSS, Checkpoint, Spec, Training
from lmaas.tasks.text_generation.options import ConversationDataOptions, Decoder

SPEC = Spec(
    name="text-generation",
    takes="a conversation, or a prompt",
    gives="text, tool calls, or JSON that fits a schema, as it is written",
    fields=("prompt",),
    rows_per_call=1,
    pipelines=("text-generation",),
    generates=True,
    metrics=LOSS
    | {
        "perplexity": "exponential of the mean loss of a learned token",
        "token_accuracy": "share of the learned tokens that greedy decoding would have written",
        "reward_accuracy": "share of the pairs whose preferred answer gained more (dpo)",
        "reward_margin": "how much more it gained, in units of the reward (dpo)",
    },
    primary="loss",
    training=Training(
        does="continues a conversation or a text",
        options=ConversationDataOptions,
        columns=(),
        architectures={"qwen3": Decoder, "llama": Decoder},
        base_task="text-generation",
        library="transformers",
    ),
    checkpoint=Checkpoint(
        endings=("ForCausalLM", "LMHeadModel"), builder="lmaas.frameworks.causal:build"
    ),
)
