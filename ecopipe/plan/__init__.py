"""The order of things, planned on index rows alone: slices, lanes, blocks, and the one sequence of batches."""
