"""Sessions: saved conversations, one JSONL file each."""
