"""What an edit does inside the model: which neurons, what they read and write, when they fire.

`look_inside` gives the numbers that a report draws and `surgery inspect` shows. They describe one
edit of one model; no choice is made on them.
"""

from modelsurgery.interpret.looking import Inside, look_inside
from modelsurgery.interpret.neighbors import nearest_rows
from modelsurgery.interpret.probes import probe_similarities, read_probe

__all__ = ["Inside", "look_inside", "nearest_rows", "probe_similarities", "read_probe"]
