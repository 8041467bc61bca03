"""Name, count, hash, replace and fold the weights of a model.

parameters.py      dotted names and back: named, replaced, assemble
anatomy.py         how many parameters each part has
fingerprint.py     a hash that is equal only if all numbers are
fold.py            processing that keeps the log-probabilities
"""
