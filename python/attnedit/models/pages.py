"""The memory of mapped weights: pages that were read stay until they are dropped."""

from attnedit import runtime
from attnedit.checkpoint import give_back
from attnedit.nn import Module
from attnedit.tensor import Array


def mapped(*modules: Module | None) -> list[Array]:
    """Their weights that are mapped from files."""
    parameters = [parameter for module in modules if module is not None for parameter in module.parameters()]
    return [parameter.lender for parameter in parameters if parameter.lender is not None]


def give_back_all(*modules: Module | None) -> None:
    """Drops the pages of the modules' mapped weights, once what is queued has been computed."""
    arrays = mapped(*modules)
    if arrays:
        runtime.synchronize()
    for array in arrays:
        give_back(array)
