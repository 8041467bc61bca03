"""Surveys: one pass of a model over a corpus that feeds sinks.

survey.py       survey(model, corpus, sinks), the loop
sinks.py        what a sink is and is given; statistics of one site as a sink
state.py        a survey's state on disk, from which it resumes
reading.py      a text, a corpus or ids as batches
"""
