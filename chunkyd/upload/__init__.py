"""The client library: one file to one server, resumable and verified."""
