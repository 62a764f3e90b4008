"""What was delivered, and how fast: digest, ledger and summary."""
