"""A file of prompts through agents: `tinyagent batch`. See docs/batch.md."""
