"""The recipe people write: YAML, checked key by key before anything is read or computed."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from attnedit.distill import LayerwiseOptions, ModelwiseOptions
from attnedit.edit import MLA, GateSWA

T = TypeVar("T")
TARGETS: dict[str, type[MLA] | type[GateSWA]] = {"mla": MLA, "gate_swa": GateSWA}


def checked(kind: type[T], values: Any) -> T:
    """A dataclass from a mapping: unknown keys and wrong types are refused by name."""
    if isinstance(values, kind):
        return values
    if not isinstance(values, Mapping):
        raise ValueError(f"must be a mapping of keys, got {values!r}")
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ValueError(f"unknown key {key!r}; the known ones are {', '.join(known)}")
    return TypeAdapter(kind).validate_python(dict(values))


class Data(BaseModel):
    """Text to train and to evaluate on; patterns are relative to the recipe's folder."""

    model_config = ConfigDict(extra="forbid")

    train: list[str] = Field(min_length=1)
    heldout: list[str] | None = None  # default: a share of the documents
    heldout_share: float = Field(default=0.02, gt=0, lt=1)
    separator: str | None = Field(default=None, min_length=1)  # between documents; default: a file is a document
    sequence_length: int | None = Field(default=None, ge=8)  # default: 2048, or the teacher's longest if that is less
    train_documents: int | None = Field(default=None, ge=1)  # only the first so many
    heldout_documents: int | None = Field(default=None, ge=1)  # only the last so many


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid")

    teacher: Path
    target: MLA | GateSWA
    data: Data
    run: Path
    layerwise: LayerwiseOptions = LayerwiseOptions()
    modelwise: ModelwiseOptions = ModelwiseOptions()
    seed: int = Field(default=0, ge=0, lt=2**62)
    memory_limit_gib: float | None = Field(default=None, gt=0)

    @field_validator("target", mode="plain")
    @classmethod
    def _target(cls, values: Any) -> MLA | GateSWA:
        if isinstance(values, MLA | GateSWA):
            return values
        if not isinstance(values, Mapping) or values.get("attention") not in TARGETS:
            got = values.get("attention") if isinstance(values, Mapping) else values
            raise ValueError(f"attention must be one of {', '.join(TARGETS)}, got {got!r}")
        return checked(TARGETS[values["attention"]], {k: v for k, v in values.items() if k != "attention"})

    @field_validator("layerwise", mode="plain")
    @classmethod
    def _layerwise(cls, values: Any) -> LayerwiseOptions:
        return checked(LayerwiseOptions, values)

    @field_validator("modelwise", mode="plain")
    @classmethod
    def _modelwise(cls, values: Any) -> ModelwiseOptions:
        return checked(ModelwiseOptions, values)

    def fitted(self, longest: int) -> "Recipe":
        """The recipe with a sequence_length, for a teacher of max_position_embeddings `longest`."""
        length = min(2048, longest) if self.data.sequence_length is None else self.data.sequence_length
        if length > longest:
            raise ValueError(
                f"[data] sequence_length must be at most the teacher's max_position_embeddings {longest}, got {length}"
            )
        return self.model_copy(update={"data": self.data.model_copy(update={"sequence_length": length})})

    @property
    def sequence_length(self) -> int:
        if self.data.sequence_length is None:
            raise ValueError("[data] sequence_length is not known yet: fit the recipe to its teacher first")
        return self.data.sequence_length

    def resolved(self) -> dict[str, Any]:
        """Every choice written out, defaults included."""
        plain: dict[str, Any] = self.model_dump(mode="json", exclude={"target", "layerwise", "modelwise"})
        attention = next(name for name, kind in TARGETS.items() if isinstance(self.target, kind))
        # A trip through JSON: tuples become the lists that YAML writes.
        parts = {"target": {"attention": attention, **asdict(self.target)}, "layerwise": asdict(self.layerwise),
                 "modelwise": asdict(self.modelwise)}  # fmt: skip
        return plain | dict(json.loads(json.dumps(parts)))


def read_recipe(path: Path) -> Recipe:
    """Raises ValueError with one line that names the key, what was wanted and what was got."""
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must hold keys such as teacher, target, data and run, got {values!r}")
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{path}: " + "; ".join(_line(e) for e in error.errors()[:3])) from None
    beside = {key: Path(os.path.normpath(path.parent / getattr(recipe, key))) for key in ("teacher", "run")}
    return recipe.model_copy(update=beside)


def _line(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        fields_of = {"": Recipe.model_fields, "data": Data.model_fields}
        known = fields_of.get(".".join(map(str, error["loc"][:-1])), {})
        return f"unknown key {where!r}; the known ones are {', '.join(known)}"
    if error["type"] == "missing":
        return f"{where} is missing"
    got = "" if "got" in message or error["type"] == "value_error" else f", got {error['input']!r}"
    return f"{where}: {' '.join(message.split())}{got}"
