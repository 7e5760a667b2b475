"""A surgery from recipe to results: the edit is chosen, measured and written."""
