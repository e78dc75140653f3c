"""The tasks that ship here, one file each."""
