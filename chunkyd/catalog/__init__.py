"""Where the server's records live."""
