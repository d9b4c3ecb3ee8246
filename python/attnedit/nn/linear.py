"""Linear and Embedding."""

from attnedit import ops
from attnedit.nn.module import Module, unset
from attnedit.tensor import Array, Tensor


class Linear(Module):
    """y = x weight^T + bias, weight [out_features, in_features]."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        self.weight = unset(out_features, in_features)
        self.bias = unset(out_features) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)


class Embedding(Module):
    """Rows of weight [vocab_size, hidden_size]."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        self.weight = unset(vocab_size, hidden_size)

    def __call__(self, tokens: Array) -> Tensor:
        return ops.embedding(tokens, self.weight)
