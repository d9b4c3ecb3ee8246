"""Teacher -> student: what the edit leaves alone is shared, the new attention is initialised from the old."""

from dataclasses import replace
from pathlib import Path
from typing import assert_never

import numpy as np
from threadpoolctl import threadpool_limits

from attnedit.checked import checked, shown
from attnedit.data import TrainingRows
from attnedit.edit.calibration import calibration_rows
from attnedit.edit.gated import AUTO_TOKENS, auto_full_layers, gated_student
from attnedit.edit.latent import latent_student
from attnedit.edit.student import OnLayer, student_of
from attnedit.edit.targets import MLA, GateSWA
from attnedit.models import Decoder


def edit(
    teacher: Decoder,
    target: MLA | GateSWA,
    calibration: TrainingRows | None = None,
    seed: int = 0,
    folder: Path | None = None,
    on_layer: OnLayer = lambda done, of: None,
) -> Decoder:
    """A student with the target's attention. Every array that the edit does not change is the teacher's own.

    calibration: int32 [R, T], rows of the text to train on; needed by init="regression" and full_layers="auto". The
    first 8,192 tokens of it are used, 16,384 by the latter. folder: where the new arrays go, layer by layer, instead of
    into memory; layers that are there already are not computed again. on_layer follows it. Raises ValueError where the
    target does not fit the source.
    """
    if not isinstance(target, MLA | GateSWA):
        raise TypeError(f"[edit] target must be an MLA or a GateSWA, got {shown(target)}")
    given = {key: value.item() if isinstance(value, np.generic) else value for key, value in vars(target).items()}
    target = checked(type(target), given, "[edit] ")
    if isinstance(target, MLA):
        student = student_of(teacher, replace(teacher.config, attention=target.attention(teacher.config)))
        # numpy's own BLAS threads would fight ours for the cores, and its sums depend on how many there are.
        with threadpool_limits(limits=1, user_api="blas"):
            latent_student(student, teacher, target, calibration, seed, folder, on_layer)
        return student
    if isinstance(target, GateSWA):
        full_layers = target.fixed_full_layers(teacher.config)
        if full_layers is None:
            rows, starts = calibration_rows(calibration, 'full_layers="auto"', AUTO_TOKENS)
            full_layers = auto_full_layers(teacher, target, rows, starts, on_layer)
        return gated_student(teacher, target, full_layers, folder)
    assert_never(target)
