"""What a run leaves on the disk: its folder, its record, its checkpoints and its metrics."""
