"""Self-contained HTML pages: a run and its probes, an audit, a retrieval."""
