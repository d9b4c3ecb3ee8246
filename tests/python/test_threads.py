"""Many Python threads at once: kernels, edits, training and generation give the answers of one."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
from tiny import random_decoder, tiny_config

import attnedit as ae
from attnedit import ops, runtime
from attnedit.autograd import backward, grad_of

THREADS = 6


def kernels(seed: int) -> list[np.ndarray[Any, Any]]:
    """Forward and backward of a few, at sizes that are cut into many ranges."""
    rng = np.random.default_rng(seed)
    x = ae.tensor(rng.normal(size=(3, 90, 64)).astype(np.float32), requires_grad=True)
    weight = ae.tensor(rng.normal(size=(64,)).astype(np.float32), requires_grad=True)
    matrix = ae.tensor(rng.normal(size=(130, 64)).astype(np.float32), requires_grad=True)
    y = ops.linear(ops.rms_norm(x, weight, 1e-6), matrix)
    loss = ops.fused_mse(y, ae.tensor(np.ones(y.shape, np.float32)), ae.tensor(np.ones(270, np.float32))).loss
    backward([loss])
    gradients = [grad_of(t) for t in (x, weight, matrix)]
    runtime.synchronize()
    return [y.numpy(), loss.numpy(), *gradients]


def edited(seed: int) -> list[np.ndarray[Any, Any]]:
    teacher = random_decoder(tiny_config(), seed)
    tokens = np.random.default_rng(seed).integers(0, 37, (12, 32)).astype(np.int32)
    student = ae.edit(teacher, ae.MLA(kv_lora_rank=12, qk_rope_head_dim=8), tokens)
    ae.distill.layerwise(student, teacher, tokens, ae.distill.LayerwiseOptions(tokens=640))
    ae.distill.modelwise(student, teacher, tokens, ae.distill.ModelwiseOptions(tokens=320))
    return [parameter.numpy() for _, parameter in student.named_parameters()]


def generated(seed: int) -> list[np.ndarray[Any, Any]]:
    teacher = random_decoder(tiny_config(), seed)
    prompts = [np.arange(1, 4 + seed % 3, dtype=np.int32), np.array([7], np.int32)]
    made = ae.generate(teacher, prompts, max_new_tokens=12, temperature=0.8, seed=seed)
    return [np.array(one.tokens) for one in made]


def test_many_threads_give_the_answers_of_one() -> None:
    jobs: list[tuple[Callable[[int], list[np.ndarray[Any, Any]]], int]] = [
        (work, seed) for seed in range(THREADS) for work in (kernels, edited, generated)
    ]
    alone = [work(seed) for work, seed in jobs]
    together = Barrier(THREADS)

    def all_of(thread: int) -> list[list[np.ndarray[Any, Any]]]:
        together.wait()
        order = [(i + thread * 5) % len(jobs) for i in range(len(jobs))]  # each begins somewhere else
        answers = {i: jobs[i][0](jobs[i][1]) for i in order}
        return [answers[i] for i in range(len(jobs))]

    with ThreadPoolExecutor(THREADS) as pool:
        for answers in pool.map(all_of, range(THREADS)):
            for (work, seed), given, wanted in zip(jobs, answers, alone, strict=True):
                for one, other in zip(given, wanted, strict=True):
                    assert np.array_equal(one, other), (work.__name__, seed)


FORK = """
import os, signal, sys, threading
import numpy as np
import attnedit as ae
sys.path.append(sys.argv[1])
from tiny import random_decoder, tiny_config
model, prompt = random_decoder(tiny_config()), [np.array([1, 2], np.int32)]
wanted = ae.generate(model, prompt, max_new_tokens=5)[0].tokens
stop = threading.Event()
def keep_busy():
    while not stop.is_set():
        ae.generate(model, prompt, max_new_tokens=5)
threads = [threading.Thread(target=keep_busy) for _ in range(3)]
for thread in threads: thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            ae.generate(model, prompt, max_new_tokens=5)
        except RuntimeError as error:
            os._exit(3 if "forked" in str(error) else 4)
        os._exit(5)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 3, code
stop.set()
for thread in threads: thread.join()
assert (ae.generate(model, prompt, max_new_tokens=5)[0].tokens == wanted).all()
"""


def test_a_fork_while_threads_compute_is_refused_and_never_hangs() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(Path(__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
