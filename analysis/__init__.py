"""Metrics, studies, figures and the command lines that produce the project's numbers. No page code."""
