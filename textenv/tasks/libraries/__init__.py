"""Tasks of other libraries, one file each, and what keeps these from doing harm."""
