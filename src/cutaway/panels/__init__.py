"""Draw the panels of a text, live: what the workbench shows, and what a notebook can.

payloads.py turns results into plain data; static/ has the ES modules that draw them.
"""
