"""The training engine: schedule, order, loop, checkpoints and logs. It knows no method by name."""
