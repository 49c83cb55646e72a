"""The Unix socket through which chunkyctl speaks to the daemon."""
