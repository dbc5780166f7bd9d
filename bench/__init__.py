"""What `make bench` runs: figures with their rivals, counted calls, and what they cost."""
