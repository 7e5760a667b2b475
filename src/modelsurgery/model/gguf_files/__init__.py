"""GGUF files as models: dequantized by transformers, once, into a directory of the cache."""

from modelsurgery.model.gguf_files.dequantizing import dequantized_directory
from modelsurgery.model.gguf_files.parts import is_gguf

__all__ = ["dequantized_directory", "is_gguf"]
