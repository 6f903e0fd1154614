"""Settings: environment variables, configuration files, and the model and server that they select."""
