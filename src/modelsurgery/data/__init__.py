"""Texts and prompts: files, public data sets, behaviors, and the demo data."""
