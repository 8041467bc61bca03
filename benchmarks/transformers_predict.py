"""The ten most likely next tokens, with transformers alone: python transformers_predict.py FOLDER PROMPT"""

import sys

import torch
from transformers import GPT2LMHeadModel, GPT2Tokenizer

folder, prompt = sys.argv[1:]
tokenizer = GPT2Tokenizer.from_pretrained(folder)
model = GPT2LMHeadModel.from_pretrained(folder).eval()
with torch.no_grad():
    logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
probabilities, ids = logits.softmax(-1).topk(10)
for probability, token in zip(probabilities.tolist(), ids.tolist(), strict=True):
    print(f"{token:6} {probability:.4f} {tokenizer.decode([token])!r}")
