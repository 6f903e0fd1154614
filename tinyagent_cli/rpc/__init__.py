"""The command `rpc`: a program talks to the agent by JSON lines."""
