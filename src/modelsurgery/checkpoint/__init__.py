"""A model on disk: its directory, headers, gate rows and layouts. No model is loaded."""
