"""`tinyagent chat`: a conversation on the terminal. Only this command imports prompt_toolkit."""
