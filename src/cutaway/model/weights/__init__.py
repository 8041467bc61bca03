"""A model's weights as a whole: their names, their fingerprint, and changes that make a new model of them.

parameters.py      dotted names and back: named, replaced, assemble
anatomy.py         how many parameters each part has
fingerprint.py     a hash that is equal only if all numbers are
fold.py            processing that keeps the log-probabilities
"""
