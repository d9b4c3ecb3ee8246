"""The fuzzer's targets, without the fuzzer: their seeds are read, and what is made of these is read or refused."""

import importlib
from pathlib import Path

import pytest
from fuzz.run import checked_input, targets

INPUTS = {"chat_template": 0, "config": 30}


@pytest.mark.parametrize("name", targets())
def test_seeds_are_read_and_mutations_read_or_refused(tmp_path: Path, name: str) -> None:
    target = importlib.import_module(f"fuzz.{name}")
    seeds = target.seeds()
    assert any(checked_input(target, seed, tmp_path) for seed in seeds)
    for i in range(INPUTS.get(name, 100)):
        seed = seeds[i % len(seeds)]
        if hasattr(target, "mutated"):
            data = target.mutated(seed, i)
        else:
            at = i * 7919 % len(seed)
            data = seed[:at] + bytes([i * 37 % 256]) + seed[at + i % 3 :]
        if data is not None:
            checked_input(target, data, tmp_path)
