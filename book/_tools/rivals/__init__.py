"""What `make bench` runs: the book's own code and its rivals, side by side."""
