"""GGUF files as models: dequantized by transformers, once, into a directory of the cache."""
