"""Files as records: lazy readers and streaming writers of csv, jsonl, txt, parquet and `datasets` folders.

What a record must hold is left to `moe.data.schema` and `moe.data.validation`.
"""
