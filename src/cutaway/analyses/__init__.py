"""Analyses: one question each; every function returns a frozen result."""
