"""Documents in one row are as each alone: hidden states and every gradient, for each attention and rope."""

import numpy as np
import pytest
from students import LAYERS, ROPES, student
from tiny import random_decoder, tiny_config

from attnedit import ops, runtime
from attnedit.autograd import backward
from attnedit.models import Decoder
from attnedit.tensor import Array, Tensor, full

LENGTHS = (1, 13, 2, 20, 4)  # longer and shorter than the windows, one token among them


def packed(seed: int = 0) -> tuple[Array, Array, list[slice]]:
    """Two rows of the same cuts: tokens, document_starts, and where the documents lie."""
    ends = np.cumsum(LENGTHS)
    begins = ends - LENGTHS
    tokens = np.random.default_rng(seed).integers(0, 37, (2, ends[-1])).astype(np.int32)
    starts = np.repeat(begins, LENGTHS).astype(np.int32)[None].repeat(2, axis=0)
    return tokens, np.ascontiguousarray(starts), [slice(b, e) for b, e in zip(begins, ends, strict=True)]


def gradients(model: Decoder, target: Array, passes: list[tuple[Array, Array | None, slice]], recompute: bool) -> dict:
    """Of sum((h - target)^2) / n over all passes together, by parameter."""
    for parameter in model.parameters():
        parameter.requires_grad, parameter.grad = True, None
    for tokens, starts, at in passes:
        h = model(tokens, recompute_blocks=recompute, document_starts=starts)
        wanted = Tensor(np.ascontiguousarray(target[:, at]))
        backward([ops.fused_mse(h, wanted, full((tokens.size,), 1.0)).loss])
    runtime.synchronize()
    return {path: p.grad.copy() for path, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("format", ["qwen3", "lfm3", "deepseek_v3", "attnedit"])
def test_a_row_of_documents_is_each_alone(format: str, rope: str) -> None:
    model = random_decoder(tiny_config(attention=LAYERS[format], rope=ROPES[rope]))
    tokens, starts, places = packed()
    together = model(tokens, document_starts=starts).numpy()
    for at in places:
        alone = model(np.ascontiguousarray(tokens[:, at])).numpy()
        np.testing.assert_allclose(together[:, at], alone, rtol=2e-4, atol=2e-5)
    assert np.abs(together - model(tokens).numpy())[:, places[1]].max() > 1e-2  # the boundaries matter


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("format", ["qwen3", "lfm3", "deepseek_v3"])
def test_the_gradients_of_a_row_are_the_sum_of_its_documents(format: str, recompute: bool) -> None:
    model = student(format, 2)
    tokens, starts, places = packed(1)
    target = np.random.default_rng(2).normal(size=(*tokens.shape, model.config.hidden_size)).astype(np.float32)
    # The loss is divided by the target's energy: one document at a time needs the share of the whole.
    whole = gradients(model, target, [(tokens, starts, slice(None))], recompute)
    energies = [float(np.square(target[:, at]).sum()) for at in places]
    sums: dict[str, Array] = {}
    for at, energy in zip(places, energies, strict=True):
        part = gradients(model, target, [(np.ascontiguousarray(tokens[:, at]), None, at)], recompute)
        for path, grad in part.items():
            sums[path] = sums.get(path, 0) + grad * (energy / sum(energies))
    assert whole.keys() == sums.keys() and any("k_proj" in path or "kv_a" in path for path in whole)
    for path, grad in whole.items():
        np.testing.assert_allclose(grad, sums[path], rtol=2e-3, atol=2e-4 * np.abs(sums[path]).max(), err_msg=path)
