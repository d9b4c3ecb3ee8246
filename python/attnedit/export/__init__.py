"""Export: a folder that loads again, re-read and compared before it is called done."""

from attnedit.export.export import export

__all__ = ["export"]
