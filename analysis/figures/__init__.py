"""Figures: tables or dataclasses in, plotly figures out."""
