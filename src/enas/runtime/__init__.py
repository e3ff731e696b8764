"""What every stage stands on: files, checkpoints, locks, stops, seeds, devices, progress and metrics."""
