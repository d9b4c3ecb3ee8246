"""What is wrong with an op's argument is one line that names both; nothing fails inside Python or the binding."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import attnedit as ae
from attnedit import ops
from attnedit.tensor import Tensor

NAN, INF = float("nan"), float("inf")


def t(*shape: int) -> Tensor:
    return ae.tensor(np.random.default_rng(0).normal(size=shape))


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def tables() -> dict[str, Tensor]:
    return {"cos": t(8, 2), "sin": t(8, 2)}


def routes() -> ops.Routes:
    return ops.moe_route(t(1, 3, 4), 2, True)


# Every op with arguments that are right.
RIGHT: dict[str, Callable[[], dict[str, Any]]] = {
    "add": lambda: {"a": t(2, 3), "b": t(2, 3)},
    "attention": lambda: {
        "q": t(2, 3, 16), "k": t(2, 3, 8), "v": t(2, 3, 6), "heads": 4, "kv_heads": 2, "scale": 0.5, "window": 2,
        "gate": t(2, 3, 4), "activation": "sigmoid", "document_starts": np.zeros((2, 3), np.int32),
    },
    "cache_store": lambda: {"x": t(2, 1, 4), "cache": np.zeros((2, 5, 8), np.float32), "first": numbers(0, 1),
                            "offset": 2},
    "cosine_loss": lambda: {"student": t(1, 3, 4), "teacher": t(1, 3, 4), "weights": t(3)},
    "cross_entropy": lambda: {"hidden": t(1, 3, 4), "head": t(7, 4), "labels": numbers(0, 6, -1), "weights": t(3)},
    "decode_attention": lambda: {
        "q": t(2, 1, 16), "k": t(2, 5, 8), "v": t(2, 5, 6), "lengths": numbers(3, 5), "heads": 4, "kv_heads": 2,
        "scale": 0.5, "gate": t(2, 1, 4), "activation": "softplus",
    },
    "embedding": lambda: {"tokens": np.zeros((2, 3), np.int32), "table": t(5, 4)},
    "experts": lambda: {"x": t(1, 3, 6), "routes": routes(), "gate": [t(5, 6)] * 4, "up": [t(5, 6)] * 4,
                        "down": [t(6, 5)] * 4},
    "fused_kl": lambda: {"student": t(1, 3, 4), "student_head": t(7, 4), "teacher": t(1, 3, 4),
                         "teacher_head": t(7, 4), "weights": t(3), "divergence": "jsd", "temperature": 2.0},
    "fused_mse": lambda: {"student": t(1, 3, 4), "teacher": t(1, 3, 4), "weights": t(3), "eps": 1e-9},
    "gram": lambda: {"head": t(7, 4)},
    "linear": lambda: {"x": t(2, 3, 4), "weight": t(5, 4), "bias": t(5)},
    "logit_mse": lambda: {"student": t(1, 3, 4), "teacher": t(1, 3, 4), "head": ops.gram(t(7, 4)), "weights": t(3)},
    "mla_absorb_query": lambda: {"q": t(2, 1, 12), "kv_b": t(10, 4), "heads": 2, "qk_rope_head_dim": 4},
    "mla_absorb_value": lambda: {"o_latent": t(2, 1, 8), "kv_b": t(10, 4), "heads": 2, "v_head_dim": 3},
    "mla_compress": lambda: {"kv_a": t(2, 3, 9), "weight": t(5), "eps": 1e-6, "start": 1} | tables(),
    "mla_decode": lambda: {"q_latent": t(2, 1, 8), "q_rope": t(2, 1, 4), "cache": t(2, 5, 6), "heads": 2, "scale": 0.5,
                           "lengths": numbers(3, 5)},
    "mla_expand": lambda: {"kv": t(2, 3, 14), "k_rope": t(2, 3, 4), "heads": 2, "v_head_dim": 3},
    "moe_route": lambda: {"logits": t(1, 3, 4), "k": 2, "normalize": True},
    "rms_norm": lambda: {"x": t(2, 3, 8), "weight": t(4), "eps": 1e-6},
    "rope": lambda: {"x": t(2, 3, 16), "heads": 2, "start": 1, "offset": 2, "interleaved": True} | tables(),
    "swiglu": lambda: {"gate": t(2, 3), "up": t(2, 3)},
}  # fmt: skip
OPS = {name for name in ops.__all__ if name.islower()}
ILL_NUMBERS: tuple[Any, ...] = (0, -1, 3, 1000, 2**40, -(2**40), 0.5, NAN, INF, -INF, "x", None, [1], t(2))


def ill_arrays(x: np.ndarray) -> Iterator[np.ndarray]:
    yield from (x[0], x[None], x[..., :0], x[:0], x.reshape(-1), np.zeros((), x.dtype), np.zeros((0,), x.dtype))
    yield from (np.concatenate([x, x], -1), np.concatenate([x, x]), x[..., 1:], np.zeros((1,) * 9, x.dtype))
    yield from (
        x.astype(kind) for kind in (np.float64, np.int64, np.int32, np.float32, ml_dtypes.bfloat16, ">f4", bool)
    )
    yield x.T


def ill(value: Any) -> Iterator[Any]:
    """What might come in the place of an argument that is right."""
    if isinstance(value, np.ndarray | Tensor):
        array = np.asarray(value)
        for other in ill_arrays(array):
            yield Tensor(np.ascontiguousarray(other)) if isinstance(value, Tensor) else other
        yield from (array if isinstance(value, Tensor) else Tensor(array), array.tolist(), None, 3, "x")
    elif isinstance(value, list):
        yield from ([], value[:1], value * 2, value[0], None, [None] * len(value), 3)
        yield from ([*value[1:], other] for other in ill(value[0]))
        yield from ([other] * len(value) for other in ill(value[0]))
    elif isinstance(value, str):
        yield from ("tanh", "", 3, None)
    elif isinstance(value, bool | int | float):
        yield from ILL_NUMBERS
    else:
        yield from (None, 3, t(2, 3))


def test_every_op_is_here() -> None:
    assert set(RIGHT) == OPS


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_an_argument_is_right_or_refused_in_one_line_that_names_the_op(name: str) -> None:
    op, right = getattr(ops, name), RIGHT[name]()
    op(**right)
    refused = 0
    for argument in right:
        for wrong in ill(right[argument]):
            try:
                op(**RIGHT[name]() | {argument: wrong})
                ae.runtime.synchronize()
            except (ValueError, TypeError, IndexError, MemoryError) as error:
                refused += 1
                assert re.fullmatch(r"\[\w+\] [^\n]+", str(error)), (argument, wrong, str(error))
    assert refused > 5


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("attention", {"q": t(3, 16)}, "[attention] q must have shape (B, T, heads * K), got (3, 16)"),
        ("attention", {"v": t(6)}, "[attention] v must have shape (B, T, kv_heads * Kv), got (6,)"),
        ("attention", {"kv_heads": 0}, "[attention] kv_heads must be 1 or more, got 0"),
        ("attention", {"kv_heads": -2}, "[attention] kv_heads must be 1 or more, got -2"),
        ("attention", {"heads": 3}, "[attention] q must have shape (B, T, heads * K) for 3 heads, got (2, 3, 16)"),
        ("attention", {"heads": 4.0}, "[attention] heads must be a whole number, got float"),
        ("attention", {"k": np.zeros((2, 3, 8))}, "[attention] k must be a Tensor, got ndarray"),
        ("attention", {"gate": t(2, 3, 6)},
         "[attention] gate must have shape (B, T, heads or heads * Kv) for 4 heads, got (2, 3, 6)"),
        ("attention", {"scale": NAN}, "[attention_forward] scale must be finite, got nan"),
        ("attention", {"window": -1}, "[attention_forward] window must be 0, for none, or more, got -1"),
        ("decode_attention", {"v": t(2, 5)}, "[decode_attention] v must have shape (B, S, kv_heads * Kv), got (2, 5)"),
        ("decode_attention", {"scale": INF}, "[decode_attention] scale must be finite, got inf"),
        ("decode_attention", {"lengths": [3, 5]}, "[decode_attention] lengths must be a numpy array, got list"),
        ("mla_decode", {"scale": NAN}, "[mla_decode] scale must be finite, got nan"),
        ("mla_compress", {"kv_a": t(3, 9)}, "[mla_compress] kv_a must have shape (B, T, R + P), got (3, 9)"),
        ("mla_compress", {"eps": -1.0}, "[mla_compress] eps must be 0 or more and finite, got -1"),
        ("mla_expand", {"heads": 0}, "[mla_expand] heads must be 1 or more, got 0"),
        ("mla_expand", {"v_head_dim": 8}, "[mla_expand] v_head_dim must be from 0 to 7, a head's part of kv, got 8"),
        ("embedding", {"table": t(5)}, "[embedding] table must have shape (V, D), got (5,)"),
        ("embedding", {"tokens": [[1, 2]]}, "[embedding] tokens must be a numpy array, got list"),
        ("rms_norm", {"eps": NAN}, "[rms_norm] eps must be 0 or more and finite, got nan"),
        ("rms_norm", {"weight": t(0)},
         "[rms_norm] weight must have a length that divides the last dimension of x, 8, got 0"),
        ("fused_mse", {"eps": NAN}, "[fused_mse] eps must be positive and finite, got nan"),
        ("fused_kl", {"temperature": NAN}, "[fused_kl] temperature must be positive and at most 100, got nan"),
        ("fused_kl", {"student": Tensor(np.zeros((), np.float32))},
         "[fused_kl] student must have shape (..., D), got ()"),
        ("gram", {"head": t(7)}, "[gram] head must have shape (V, D), got (7,)"),
        ("logit_mse", {"head": t(7, 4)}, "[logit_mse] head must be a Gram, got Tensor"),
        ("moe_route", {"logits": t(3, 0)}, "[moe_route] k must be from 1 to 0, the number of experts, got 2"),
        ("moe_route", {"k": 5}, "[moe_route] k must be from 1 to 4, the number of experts, got 5"),
        ("experts", {"gate": []}, "[experts] gate must be of 4 experts, got 0"),
        ("experts", {"down": [t(6)] * 4}, "[experts] down must have shape (D, F), got (6,)"),
        ("experts", {"gate": t(5, 6)}, "[experts] gate must be a list, got Tensor"),
        ("add", {"b": t(3, 2)}, "[add] b must have shape (2, 3), got (3, 2)"),
    ],
)  # fmt: skip
def test_the_line_says_what_was_wanted_and_what_was_got(name: str, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as raised:
        getattr(ops, name)(**RIGHT[name]() | wrong)
    assert str(raised.value) == message


def test_what_python_tells_of_a_call_it_still_tells() -> None:
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'weight'"):
        ops.linear(t(2, 3))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'wieght'"):
        ops.linear(t(2, 3), wieght=t(2, 3))  # type: ignore[call-arg]


def test_widths_of_nothing_are_right() -> None:
    nothing = ops.linear(t(2, 3, 0), t(5, 0), t(5))
    assert nothing.shape == (2, 3, 5)
    found = ops.fused_kl(t(1, 3, 0), t(7, 0), t(1, 3, 0), t(7, 0), t(3))
    assert found.each.numpy().tolist() == [0, 0, 0]
    assert ops.cross_entropy(t(1, 2, 0), t(7, 0), numbers(0, 1), t(2)).nll.numpy() == pytest.approx(np.log(7))
    assert ops.experts(t(1, 3, 0), routes(), [t(5, 0)] * 4, [t(5, 0)] * 4, [t(0, 5)] * 4).shape == (1, 3, 0)
