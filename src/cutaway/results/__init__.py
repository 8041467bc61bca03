"""Results: what every analysis returns, and what analyses need to make one.

result.py       Result, the base class: table, summary, chart, save
call.py         the meta of a result, and the call that makes it again
labels.py       token ids as strings
bootstrap.py    intervals that resample documents
saving.py       results as JSON, CSV and Parquet files
"""
