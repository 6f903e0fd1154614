"""What `tinyagent.executors` consists of."""
