"""`report.html`: one run as one self-contained page, made from its directory alone; its answers."""

from modelsurgery.report.html.page import write_pairs, write_report

__all__ = ["write_pairs", "write_report"]
