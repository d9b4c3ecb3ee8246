"""Export: a folder that loads again, re-read and compared before it is called done."""

from attnedit.export.export import export, export_run_or_folder, known_formats

__all__ = ["export", "export_run_or_folder", "known_formats"]
