"""The command line of tinyagent. It may import the library; the library never imports it."""
