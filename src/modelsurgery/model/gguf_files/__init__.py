"""GGUF files as models: dequantized by transformers, once, into a directory of the cache."""

from modelsurgery.model.gguf_files.dequantizing import dequantized_directory

__all__ = ["dequantized_directory"]
