"""A checkpoint of real shapes: sharded, bfloat16, weights drawn like trained ones. For memory, time and disk at scale.

    python benchmarks/scaling/make_checkpoint.py qwen3-8b /tmp/qwen3-8b-2 --layers 2 [--tokenizer FOLDER]

Rows of every matrix have their own scale (log-normal), a few input channels are ten times as large, norms lie around 1:
hidden states stay finite through all layers, and no two layers are alike. Nothing is learnt: such a model says nothing.
"""

import argparse
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from attnedit.checkpoint import save_checkpoint
from attnedit.models import Decoder
from attnedit.models.load import family_of

# The published config.json of each, but for what does not decide about shapes.
DENSE = {"model_type": "qwen3", "vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        **DENSE, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "qwen3-8b": {
        **DENSE, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
    "qwen3-30b-a3b": {
        **DENSE, "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
        "num_attention_heads": 32, "num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8,
        "moe_intermediate_size": 768, "norm_topk_prob": True, "tie_word_embeddings": False,
    },
}  # fmt: skip
POOL = 1 << 22  # numbers drawn once; every row begins elsewhere in them


def config(name: str, layers: int | None = None) -> dict[str, Any]:
    """config.json of these shapes, with so many layers."""
    shape = SHAPES[name] | ({} if layers is None else {"num_hidden_layers": layers})
    return shape | {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 40960, "hidden_act": "silu"}


class Drawn(Mapping[str, np.ndarray]):
    """Tensor names -> arrays, each drawn when it is asked for."""

    def __init__(self, raw: dict[str, Any]) -> None:
        family = family_of(raw)
        decoder = Decoder(family.decoder_config(raw))
        self._shapes = {family.tensor_name(path): parameter.shape for path, parameter in decoder.named_parameters()}
        self._layers = decoder.config.num_hidden_layers
        self._pool = np.random.default_rng(0).standard_normal(POOL, np.float32)

    def __getitem__(self, name: str) -> np.ndarray:
        shape, rng = self._shapes[name], np.random.default_rng(zlib.crc32(name.encode()))
        if len(shape) == 1:
            return rng.uniform(0.7, 1.3, shape).astype(ml_dtypes.bfloat16)
        out_features, in_features = shape
        scale = np.exp(0.3 * rng.standard_normal(out_features)) / math.sqrt(in_features)
        if name.endswith(("o_proj.weight", "down_proj.weight")):  # what is added to the stream
            scale /= math.sqrt(2 * self._layers)
        if "embed_tokens" in name:
            scale = np.full(out_features, 0.03)
        channels = np.ones(in_features, np.float32)
        channels[rng.integers(0, in_features, max(1, in_features // 500))] = 10
        stored = np.empty(shape, ml_dtypes.bfloat16)
        for row, begin in enumerate(rng.integers(0, POOL - in_features, out_features)):
            stored[row] = self._pool[begin : begin + in_features] * (channels * np.float32(scale[row]))
        return stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def make(name: str, folder: Path, layers: int | None = None, tokenizer: Path | None = None) -> None:
    """Raises FileExistsError where folder is there already."""
    raw = config(name, layers)
    files = [tokenizer / file for file in ("tokenizer.json", "tokenizer_config.json")] if tokenizer else []
    save_checkpoint(folder, raw, Drawn(raw), [file for file in files if file.exists()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--tokenizer", type=Path, help="a folder whose tokenizer.json goes along")
    asked = parser.parse_args()
    make(asked.name, asked.folder, asked.layers, asked.tokenizer)
