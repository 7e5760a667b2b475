"""Delivering an edit: to a model in memory, to a copy of a checkpoint on disk."""
