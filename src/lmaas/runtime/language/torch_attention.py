"""Attention of one new token a sequence, where several query heads share keys and values.

Transformers repeats keys and values for each query head whenever there is a mask, which costs a
copy of the whole cache in every layer and step. Here the query heads of a group take the place of
a sequence's tokens instead, so the cache is read as it is.
"""

from typing import Any, Final

NAME: Final = "lmaas_grouped"


def use_grouped(model: Any) -> None:
    """Let `model` attend this way, if it uses PyTorch's scaled dot product attention."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    if model.config.get_text_config()._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, grouped_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def grouped_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Any, None]:
    """As transformers calls it: query (B, H, T, D), keys and values (B, H / G, L, D).

    `attention_mask` (B, 1, T, L) is of bool, or added. Returns (B, T, H, D).
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    batch, heads, tokens, size = query.shape
    shared = key.shape[1]
    own_mask = attention_mask is not None and attention_mask.shape[1] != 1
    if tokens != 1 or heads == shared or own_mask:
        told: tuple[Any, None] = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **more,
        )
        return told
    attended = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(batch, shared, heads // shared, size),
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=dropout,
        scale=scaling,
    )
    return attended.reshape(batch, 1, heads, value.shape[-1]), None
