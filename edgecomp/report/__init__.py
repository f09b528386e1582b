"""Stage 7, report: figures → terminal, HTML, Markdown, JUnit; limits; comparisons."""

from .report import print_report, read_report, remeasured, render, report

__all__ = ["print_report", "read_report", "remeasured", "render", "report"]
