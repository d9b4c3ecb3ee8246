"""A conversion as people run it: a recipe in, a run folder out, resumed where it stopped."""

from attnedit.convert.recipe import Recipe, read_recipe
from attnedit.convert.run import convert

__all__ = ["Recipe", "convert", "read_recipe"]
