"""What both ends of the wire say: pure, no I/O."""
