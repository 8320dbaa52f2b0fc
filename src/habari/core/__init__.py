"""Words and decisions of the platform, computed without any I/O."""
