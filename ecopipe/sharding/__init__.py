"""Raw corpora to shards: what goes into which shard is planned first, so that any number of processes writes the same
bytes, and a run that was killed goes on where it was.
"""
