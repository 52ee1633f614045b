"""The report (one offline HTML page) and the result pages, made from the tables of `evaluate`."""

from pipeline.report.build import build_report
from pipeline.report.overlay import data_uri, draw_outlines
from pipeline.report.results import write_results

__all__ = ["build_report", "data_uri", "draw_outlines", "write_results"]
