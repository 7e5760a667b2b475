"""Continuing prompts with a base and an edited model, batched, seeded and resumable."""

from modelsurgery.evaluation.decoding import Continuation, Decoding, Generator, Speed
from modelsurgery.evaluation.generation.local import TransformersGenerator

__all__ = ["Continuation", "Decoding", "Generator", "Speed", "TransformersGenerator"]
