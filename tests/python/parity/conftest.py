"""Tests against transformers, skipped where it is not installed: `make test` runs them where it is."""

import os
import tempfile

# Code that folders bring along is copied there while it is imported; it goes with the process.
MODULES = tempfile.TemporaryDirectory(prefix="attnedit-modules-")
os.environ["HF_MODULES_CACHE"] = MODULES.name
os.environ["HF_HUB_OFFLINE"] = "1"
