"""The encoder-decoder in PyTorch: (N, S) and (N, T) token ids in, logits (N, T, V) out.

Its parameters have the names of `training.encoder_decoder`.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from lmaas.training import encoder_decoder as layout


class Attention(nn.Module):  # type: ignore[misc]
    """Each place of `x` (N, T, W) looks at places of `memory` (N, S, W)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(
        self, x: torch.Tensor, memory: torch.Tensor, seen: torch.Tensor | None, *, causal: bool
    ) -> torch.Tensor:
        """(N, T, W); `seen` (N, 1, 1, S) is False where nothing is to be looked at."""
        n, t, w = x.shape

        def split(each: torch.Tensor) -> torch.Tensor:
            return each.reshape(n, each.shape[1], self.heads, w // self.heads).transpose(1, 2)

        q, k, v = split(self.q_proj(x)), split(self.k_proj(memory)), split(self.v_proj(memory))
        mixed = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, is_causal=causal
        )
        return self.out_proj(mixed.transpose(1, 2).reshape(n, t, w))


class Layer(nn.Module):  # type: ignore[misc]
    """A layer of one of the stacks; the decoder's looks at the source as well."""

    def __init__(self, sizes: layout.Sizes, feed: int, *, decoder: bool) -> None:
        super().__init__()
        width = sizes.width
        self.self_attn = Attention(width, sizes.heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        if decoder:
            self.encoder_attn = Attention(width, sizes.heads)
            self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, feed), nn.Linear(feed, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(sizes.dropout)
        self.decoder = decoder

    def forward(
        self, x: torch.Tensor, seen: torch.Tensor, memory: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(N, T, W) to the same; `seen` tells which places of the source there are."""
        y = self.self_attn_layer_norm(x)
        x = x + self.drop(self.self_attn(y, y, None if self.decoder else seen, causal=self.decoder))
        if memory is not None:
            y = self.encoder_attn_layer_norm(x)
            x = x + self.drop(self.encoder_attn(y, memory, seen, causal=False))
        y = self.final_layer_norm(x)
        return x + self.drop(self.fc2(torch.relu(self.fc1(y))))


class Stack(nn.Module):  # type: ignore[misc]
    """Layers and a last normalisation."""

    def __init__(self, sizes: layout.Sizes, *, decoder: bool) -> None:
        super().__init__()
        first = sizes.layers if decoder else 0
        self.layers = nn.ModuleList(
            Layer(sizes, sizes.feed[first + index], decoder=decoder)
            for index in range(sizes.layers)
        )
        self.layer_norm = nn.LayerNorm(sizes.width)


class EncoderDecoder(nn.Module):  # type: ignore[misc]
    """See `training.encoder_decoder`."""

    def __init__(self, sizes: layout.Sizes, vocabulary: int, most: int) -> None:
        super().__init__()
        self.shared = nn.Embedding(vocabulary, sizes.width)
        self.encoder, self.decoder = Stack(sizes, decoder=False), Stack(sizes, decoder=True)
        self.drop = nn.Dropout(sizes.dropout)
        self.scale = sizes.width**0.5
        table = torch.from_numpy(layout.places(most, sizes.width))
        self.register_buffer("places", table, persistent=False)

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """What the decoder looks at, (N, S, W)."""
        seen = (attention_mask > 0)[:, None, None, :]
        x = self._read(input_ids)
        for layer in self.encoder.layers:
            x = layer(x, seen)
        return self.encoder.layer_norm(x)

    def decode(
        self, memory: torch.Tensor, attention_mask: torch.Tensor, decoder_input_ids: torch.Tensor
    ) -> torch.Tensor:
        """The logits (N, T, V) of what follows each of the decoder's tokens."""
        seen = (attention_mask > 0)[:, None, None, :]
        x = self._read(decoder_input_ids)
        for layer in self.decoder.layers:
            x = layer(x, seen, memory)
        return self.decoder.layer_norm(x) @ self.shared.weight.T

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        decoder_input_ids: torch.Tensor,
    ) -> torch.Tensor:
        """Logits (N, T, V)."""
        return self.decode(
            self.encode(input_ids, attention_mask), attention_mask, decoder_input_ids
        )

    def _read(self, ids: torch.Tensor) -> torch.Tensor:
        return self.drop(self.shared(ids) * self.scale + self.places[: ids.shape[1]])


def build(sizes: layout.Sizes, vocabulary: int, most: int, weights: layout.Weights) -> nn.Module:
    """The network with these weights, for texts of at most `most` tokens."""
    model = EncoderDecoder(sizes, vocabulary, most)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return model


def weights_of(model: Any, sizes: layout.Sizes) -> layout.Weights:
    """The weights in the one layout."""
    return {
        name: np.array(tensor.detach().cpu().float().numpy())
        for name, tensor in model.state_dict().items()
    }


def decoder_of(model: Any) -> tuple[Any, Any]:
    """Functions of arrays: `encode(ids, mask) -> memory`, `decode(memory, mask, ids) -> logits`."""
    device = model.shared.weight.device

    def encode(ids: np.ndarray, mask: np.ndarray) -> Any:
        model.eval()
        with torch.no_grad():
            return model.encode(torch.tensor(ids, device=device), torch.tensor(mask, device=device))

    def decode(memory: Any, mask: np.ndarray, ids: np.ndarray) -> np.ndarray:
        model.eval()
        with torch.no_grad():
            tensors = torch.tensor(mask, device=device), torch.tensor(ids, device=device)
            return np.asarray(model.decode(memory, *tensors).float().cpu().numpy())

    return encode, decode
