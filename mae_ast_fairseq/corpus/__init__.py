"""What happens before training: finding, checking and packing files, their statistics, and synthetic clips."""
