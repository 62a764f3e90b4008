"""Local and remote bytes: ranges of files to read, and things published whole or not at all."""
