"""Programs that measure the project beside its peers: `python -m benchmarks`. Nothing here is a test."""
