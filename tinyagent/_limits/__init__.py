"""What limits the requests to one provider: its gate, and the rates of requests and tokens."""
