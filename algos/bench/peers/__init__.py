"""The same work done by other libraries, one file each."""
