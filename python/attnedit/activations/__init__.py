"""Rows of tokens through a model layer by layer: what lies in memory is one layer and what is in flight.

A mapped model costs memory only where it is looked at. `layers` walks over it and gives the pages behind it back;
`States` keeps the hidden states between two layers in a file that finds its own damage and continues after a kill.
"""

from attnedit.activations.states import States
from attnedit.activations.store import StateDtype
from attnedit.activations.walk import PASS_TOKENS, forward, grouped, layers, pass_rows, passes

__all__ = [
    "PASS_TOKENS", "StateDtype", "States", "forward", "grouped", "layers", "pass_rows", "passes",
]  # fmt: skip
