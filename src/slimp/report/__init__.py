"""Self-contained HTML pages: a run and its probes, an audit, a retrieval."""

from slimp.report.page import PageOptions, write_report

__all__ = ["PageOptions", "write_report"]
