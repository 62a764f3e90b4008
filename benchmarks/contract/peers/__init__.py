"""One file per loader: how its shards are made, and the contract of its documented, recommended use."""
