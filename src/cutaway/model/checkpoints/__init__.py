"""Turn what a user gives, a name, a path or a transformers model, into checked weights.

checkpoint.py      read(source) -> configuration, weights, tokenizer; it calls all others
hub.py             a Hugging Face id -> a folder of files
weight_files.py    a folder or file -> tensors by their names in it
state_dict.py      those tensors -> GPT-2's own, each present and of its right shape
live.py            a transformers model -> the same, if it computes what its weights and configuration say
"""
