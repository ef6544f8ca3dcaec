"""What makes training loops of others shorter, or saves them from a silent mistake."""
