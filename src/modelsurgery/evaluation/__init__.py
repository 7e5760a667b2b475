"""Measuring what an edit did and what it broke, on the same prompts before and after."""
