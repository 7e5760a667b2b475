"""Delivering edits to the places where people run models: adapters, llama.cpp, the Hub.

An edit is a sum of rank-one updates, so an adapter of it is exact: ΔW = coefficients · directions.
No model is loaded; the checkpoint's headers and the edited rows are read.
"""

from modelsurgery.export.factors import Factors, low_rank_factors
from modelsurgery.export.gguf import GgufAdapter, write_gguf_adapter, write_merged_gguf
from modelsurgery.export.hub import Repository, push_repository, write_repository
from modelsurgery.export.mlx import MlxAdapter, write_mlx_adapter
from modelsurgery.export.ollama import OllamaModel, write_ollama_model
from modelsurgery.export.peft import PeftAdapter, write_peft_adapter

__all__ = [
    "Factors",
    "GgufAdapter",
    "MlxAdapter",
    "OllamaModel",
    "PeftAdapter",
    "Repository",
    "low_rank_factors",
    "push_repository",
    "write_gguf_adapter",
    "write_merged_gguf",
    "write_mlx_adapter",
    "write_ollama_model",
    "write_peft_adapter",
    "write_repository",
]
