"""chunkyd: drop a file in a folder; it arrives, whole and verified, whatever happens on the way."""

__version__ = "0.1.0"
