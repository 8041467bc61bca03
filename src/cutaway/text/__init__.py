"""Text to tokens, documents to batches.

tokens.py                                   Tokenizer: text to ids and back; Tokens: a padded batch of them
decoding.py, display.py                     ids to text; text made visible for people
tokenizer_files.py, sentencepiece_files.py  the files that a tokenizer is read from
corpus/                                     open_corpus: files, objects in memory and datasets as documents
batches.py                                  documents to windows, windows to batches
"""
