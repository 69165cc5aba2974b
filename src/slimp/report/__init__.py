"""One self-contained HTML page about a run: what was trained on what, and what it is worth."""

from slimp.report.gather import write_report
from slimp.report.inputs import CohortFacts, ProbeFacts, ReportInputs, Score
from slimp.report.page import render

__all__ = ["CohortFacts", "ProbeFacts", "ReportInputs", "Score", "render", "write_report"]
