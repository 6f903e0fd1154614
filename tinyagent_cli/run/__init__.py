"""One run of an agent: its plan, its input, its approvals and its end."""
