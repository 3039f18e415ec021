"""DETR's transformer: positions are added to queries and keys at every layer. https://arxiv.org/abs/2005.12872, figure 10.

Parameters have the names and shapes of the published checkpoints. All sequences are (N, length, C).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward net, each added to its input and normalized after."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, padded: Tensor) -> Tensor:
        """x and positions (N, S, C), padded (N, S) true where nothing is attended to."""
        at = x + positions
        attended = self.self_attn(at, at, x, key_padding_mask=padded, need_weights=False)[0]
        x = self.norm1(x + self.dropout(attended))
        fed = self.linear2(self.dropout(F.relu(self.linear1(x))))
        out: Tensor = self.norm2(x + self.dropout(fed))
        return out


class DecoderLayer(nn.Module):
    """Self-attention of the queries, attention to the image, and a feed-forward net."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, queries: Tensor, memory: Tensor, keys: Tensor, padded: Tensor) -> Tensor:
        """x and queries (N, Q, C); memory (N, S, C) is what is read, keys (N, S, C) where it lies; padded (N, S)."""
        at = x + queries
        x = self.norm1(x + self.dropout(self.self_attn(at, at, x, need_weights=False)[0]))
        seen = self.multihead_attn(x + queries, keys, memory, key_padding_mask=padded, need_weights=False)[0]
        x = self.norm2(x + self.dropout(seen))
        fed = self.linear2(self.dropout(F.relu(self.linear1(x))))
        out: Tensor = self.norm3(x + self.dropout(fed))
        return out


class Encoder(nn.Module):
    """Layers one after another."""

    def __init__(self, layers: int, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, feedforward, dropout) for _ in range(layers))

    def forward(self, x: Tensor, positions: Tensor, padded: Tensor) -> Tensor:
        """As its layers'."""
        for layer in self.layers:
            x = layer(x, positions, padded)
        return x


class Decoder(nn.Module):
    """Layers one after another, and one norm before whatever reads any of them."""

    def __init__(self, layers: int, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, heads, feedforward, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, memory: Tensor, keys: Tensor, padded: Tensor) -> Tensor:
        """(layers, N, Q, C): what every layer made of the queries, beginning with nothing."""
        x = torch.zeros_like(queries)
        found = []
        for layer in self.layers:
            x = layer(x, queries, memory, keys, padded)
            found.append(self.norm(x))
        return torch.stack(found)


class Transformer(nn.Module):
    """As many encoder layers as decoder layers."""

    def __init__(self, layers: int, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.encoder = Encoder(layers, width, heads, feedforward, dropout)
        self.decoder = Decoder(layers, width, heads, feedforward, dropout)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, features: Tensor, positions: Tensor, padded: Tensor, queries: Tensor) -> Tensor:
        """(layers, N, Q, C) of features and positions (N, C, H, W), padded (N, H, W) bool, queries (Q, C)."""
        x, at, off = features.flatten(2).mT, positions.flatten(2).mT, padded.flatten(1)
        memory = self.encoder(x, at, off)
        found: Tensor = self.decoder(queries.expand(len(x), -1, -1), memory, memory + at, off)
        return found
