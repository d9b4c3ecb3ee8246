"""The output gate's start: open for everything, so that a gated layer computes what the source's did."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def identity_gate(o_proj: Array, activation: str, per: str, num_heads: int, head_dim: int, D: int) -> dict[str, Array]:
    """A zero gate and an `o_proj` divided by the gate's value at zero: together they change nothing."""
    at_zero = {"sigmoid": 0.5, "softplus": float(np.log(2.0))}
    rows = {"head": num_heads, "element": num_heads * head_dim}
    if activation not in at_zero:
        raise ValueError(f"[identity_gate] activation must be one of {sorted(at_zero)}, got {activation!r}")
    if per not in rows:
        raise ValueError(f"[identity_gate] per must be one of {sorted(rows)}, got {per!r}")
    if o_proj.shape != (D, num_heads * head_dim):
        raise ValueError(f"[identity_gate] o_proj must have shape {(D, num_heads * head_dim)}, got {o_proj.shape}")
    return {
        "g_proj": np.zeros((rows[per], D), np.float32),
        "o_proj": (o_proj / np.float32(at_zero[activation])).astype(np.float32),
    }
