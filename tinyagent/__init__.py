"""tinyagent: a small agent library, with streaming, tools, events and steering."""
