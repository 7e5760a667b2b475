"""Texts and prompts: files, public data sets, behaviors, and the demo model's world."""
