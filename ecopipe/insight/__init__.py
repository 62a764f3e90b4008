"""What was delivered, whether it was what was planned, and how fast: digest, audit and summary."""
