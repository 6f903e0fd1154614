"""HTTP for the providers: requests, connections, and the errors that they end with."""
