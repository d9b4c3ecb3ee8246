# The bound kernels and runtime. Their contracts stand in csrc/kernels/*.h and in attnedit.ops, which calls them.
from typing import Any

__version__: str

def __getattr__(name: str) -> Any: ...
