"""`report.html`: one run as one self-contained page, made from its directory alone."""

from modelsurgery.report.html.page import REPORT_FILE, write_report

__all__ = ["REPORT_FILE", "write_report"]
