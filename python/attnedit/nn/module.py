"""Module: parameters found by attribute name."""

from collections.abc import Iterator

import numpy as np

from attnedit.tensor import Tensor


def unset(*shape: int) -> Tensor:
    """A parameter that has a shape and takes no memory, until a checkpoint or an initialisation sets it."""
    return Tensor(np.broadcast_to(np.float32(0), shape))


class Module:
    """Parameters and modules are plain attributes; lists of modules are numbered."""

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                yield prefix + name, value
            elif isinstance(value, Module):
                yield from value.named_parameters(f"{prefix}{name}.")
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    if isinstance(item, Module):
                        yield from item.named_parameters(f"{prefix}{name}.{i}.")

    def parameters(self) -> list[Tensor]:
        return [parameter for _, parameter in self.named_parameters()]

    def set_parameter(self, path: str, value: Tensor) -> None:
        """Replaces one parameter; other modules that share the old one keep it."""
        owner: object = self
        *path_to_owner, name = path.split(".")
        for part in path_to_owner:
            owner = owner[int(part)] if isinstance(owner, list) else getattr(owner, part)
        setattr(owner, name, value)
