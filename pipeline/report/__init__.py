"""The report: one self-contained HTML page of all datasets, and the result pages in git."""
