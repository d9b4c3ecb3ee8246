"""The recipe people write: YAML, checked key by key before anything is read or computed."""

import glob
import json
import os
import re
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PlainValidator

from attnedit.checked import Text, checked, shown
from attnedit.data import Source
from attnedit.distill import LayerwiseOptions, ModelwiseOptions
from attnedit.edit import MLA, GateSWA

TARGETS: dict[str, type[MLA] | type[GateSWA]] = {"mla": MLA, "gate_swa": GateSWA}
SHARE_DOCUMENTS = 200  # a share of the text may be far more than tells how good a student is
KEYS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
WRITTEN = {yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping"}
MOST_ALIASES = 16  # nested, they repeat what they name some hundred times at most


def _entry(values: Any) -> str | Source:
    if isinstance(values, Mapping):
        return checked(Source, values, "data: ")
    if not isinstance(values, str) or not values or "\0" in values:
        raise ValueError(f"data: text must be a path or a mapping with files, got {shown(values)}")
    return values


Entries = Annotated[list[Annotated[str | Source, PlainValidator(_entry)]], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Data:
    """Text to train and to evaluate on."""

    train: Entries  # files, folders or globs; or mappings with files, field, separator and weight
    heldout: Entries | None = None  # default: a share of the documents
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.02
    # between documents; default: a file is a document
    separator: Annotated[str, Field(min_length=1)] | None = None
    # default: 2048, or the teacher's longest if that is less
    sequence_length: Annotated[int, Field(ge=8)] | None = None
    train_documents: Annotated[int, Field(ge=1)] | None = None  # only the first so many
    # only the last so many are evaluated; default: all of heldout, 200 of a share
    heldout_documents: Annotated[int, Field(ge=1)] | None = None

    @property
    def most_evaluated(self) -> int | None:
        return self.heldout_documents or (None if self.heldout is not None else SHARE_DOCUMENTS)


def _target(values: Any) -> MLA | GateSWA:
    got = values.get("attention") if isinstance(values, Mapping) else values
    if not isinstance(values, Mapping) or not isinstance(got, str) or got not in TARGETS:
        raise ValueError(f"target: attention must be one of {', '.join(TARGETS)}, got {shown(got)}")
    return checked(TARGETS[got], {k: v for k, v in values.items() if k != "attention"}, "target: ")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Paths are relative to the recipe as written, absolute as read."""

    teacher: Text
    target: Annotated[MLA | GateSWA, PlainValidator(_target)]
    data: Data
    run: Text
    layerwise: LayerwiseOptions = field(default_factory=LayerwiseOptions)
    modelwise: ModelwiseOptions = field(default_factory=ModelwiseOptions)
    compute: Literal["float32", "bfloat16"] = "float32"  # what both phases multiply in; all else is float32
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    memory_limit_gib: Annotated[float, Field(gt=0, le=2**20)] | None = None

    def beside(self, folder: Path) -> "Recipe":
        """With absolute paths, for a recipe that lies in folder."""

        def patterns(written: list[str | Source]) -> list[str | Source]:
            return [
                _absolute_pattern(folder, entry)
                if isinstance(entry, str)
                else replace(entry, files=[_absolute_pattern(folder, pattern) for pattern in entry.files])
                for entry in written
            ]

        heldout = None if self.data.heldout is None else patterns(self.data.heldout)
        return replace(
            self,
            teacher=os.path.abspath(folder / os.path.expanduser(self.teacher)),
            run=os.path.abspath(folder / os.path.expanduser(self.run)),
            data=replace(self.data, train=patterns(self.data.train), heldout=heldout),
        )

    def fitted(self, longest: int) -> "Recipe":
        """The recipe with a sequence_length, for a teacher of max_position_embeddings `longest`. Raises ValueError for
        a value that is none, since a recipe may also come from Python."""
        checked(Recipe, self.resolved(), "[recipe] ")
        length = min(2048, longest) if self.data.sequence_length is None else self.data.sequence_length
        if length > longest:
            raise ValueError(
                f"[data] sequence_length must be at most the teacher's max_position_embeddings {longest}, got {length}"
            )
        return replace(self, data=replace(self.data, sequence_length=length))

    @property
    def sequence_length(self) -> int:
        if self.data.sequence_length is None:
            raise ValueError("[data] sequence_length is not known yet: fit the recipe to its teacher first")
        return self.data.sequence_length

    def resolved(self) -> dict[str, Any]:
        """Every choice written out, defaults included; `auto` stays, so that it can be run again."""
        attention = next(name for name, kind in TARGETS.items() if isinstance(self.target, kind))
        plain = asdict(self) | {"target": {"attention": attention, **asdict(self.target)}}
        return dict(json.loads(json.dumps(plain)))  # tuples become the lists that YAML writes

    def decisive(self) -> dict[str, Any]:
        """What decides about the result: neither where things lie, nor text, which is known by its hash."""
        values = self.resolved()
        data = {k: v for k, v in values["data"].items() if k not in ("train", "heldout")}
        return {k: v for k, v in values.items() if k not in ("run", "teacher", "memory_limit_gib")} | {"data": data}


def _absolute_pattern(folder: Path, pattern: str) -> str:
    """A folder whose own name holds brackets is no glob, and neither is what is there by that very name."""
    asked = os.path.expanduser(pattern)
    if os.path.isabs(asked) or (folder / asked).exists():
        return os.path.join(folder.absolute(), asked)
    return os.path.join(glob.escape(str(folder.absolute())), asked)


class _Loader(yaml.SafeLoader):
    """YAML in which a key is text and stands once, 1e-4 is a number, as in YAML 1.2, and few aliases stand for much."""

    aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MOST_ALIASES:
                line = self.line + 1
                raise yaml.composer.ComposerError(problem=f"line {line}: more than {MOST_ALIASES} aliases")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        # A tag may call anything a mapping: what is none is refused below.
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in KEYS:
                got = shown(key.value) if isinstance(key, yaml.ScalarNode) else WRITTEN[type(key)]
                raise yaml.constructor.ConstructorError(problem=f"line {line}: a key must be text, got {got}")
            if key.value in seen:
                raise yaml.constructor.ConstructorError(problem=f"line {line}: key {shown(key.value)} is written twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            made = super().construct_object(node, deep)
            if isinstance(made, int):
                str(made)  # hexadecimal digits may be many; those of a number that is written again may not
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            # PyYAML's makers of numbers and dates trust the text that they are given.
            line, kind = node.start_mark.line + 1, node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                problem=f"line {line}: {shown(node.value)} is no {kind} that can be read"
            ) from None
        return made


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_recipe(path: Path) -> Recipe:
    """Raises OSError or ValueError with one line that names the key, what was wanted and what was got."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: must be a recipe, a YAML file, got {'a folder' if path.exists() else 'nothing'}"
        )
    try:
        loader = _Loader(path.read_text("utf-8"))
        written = loader.get_single_node()
        values = None if written is None else loader.construct_document(written)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())[:500]}") from None
    except RecursionError:
        raise ValueError(f"{path}: must be a recipe, got YAML too deep to read") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must hold keys such as teacher, target, data and run, got {shown(values)}")
    return checked(Recipe, values, f"{path}: ", place=lambda key: _place(written, key)).beside(path.parent)


def _place(node: yaml.Node | None, key: str) -> str:
    """ "line N: " for a dotted key, or for as much of it as is written; nothing where none of it is."""
    line = None
    for part in key.split("."):
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            found, node = next((pair for pair in node.value if pair[0].value == part), (None, None))
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            found = node = node.value[int(part)]
        if found is None:
            break
        line = found.start_mark.line + 1
    return "" if line is None else f"line {line}: "
